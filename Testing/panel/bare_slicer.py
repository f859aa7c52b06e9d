"""The panel in a Slicer as it comes, where nothing that registration needs has been installed: python Testing/panel/bare_slicer.py

Prints what is seen, as JSON. In a process of its own, as that of the tests has imported everything already.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Slicer has numpy, requests, pillow and SimpleITK.
LACKING = ("torch", "jinja2", "psutil", "tqdm", "platformdirs", "matplotlib", "safetensors", "scipy", "itk")


class Lacking:
    """Finds nothing of what is lacking, before any other finder finds it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in LACKING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def version(name: str) -> str:
    if name in LACKING:
        raise importlib.metadata.PackageNotFoundError(name)
    return importlib.metadata.distribution(name).version


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "host")]
    sys.meta_path.insert(0, Lacking())
    importlib.metadata.version = version
    import slicer_host

    slicer_host.start(ROOT / "Testing" / "host" / "slicer_layer")
    import slicer

    for name in ("fixed", "moving"):
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    module = slicer_host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    panel = module.widgetRepresentation()
    panel.show()
    module.enter()
    ui = module.widget.ui
    found = {
        "models": [one["name"] for one in module.widget.logic.models()],
        "may register": bool(ui.registerButton.enabled),
        "asked before": bool(ui.consentBox.isVisibleTo(panel)),
    }
    ui.registerButton.click()
    found |= {
        "asked": bool(ui.consentBox.isVisibleTo(panel)),
        "words": ui.consentLabel.text,
        "runs": module.widget.job is not None,
    }
    ui.installButton.click()  # there is no PyTorch extension here
    found["message"] = ui.messageLabel.text
    module.exit()
    module.widget.cleanup()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
