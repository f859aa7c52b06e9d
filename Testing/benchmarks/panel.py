"""How long the module takes to open, and what that brings in: python Testing/benchmarks/panel.py

On the stand-in for Slicer's Qt side, in a fresh process, so that nothing is loaded before. The first opening reads the library;
those after it are what Slicer's Reload takes.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPENINGS = 5


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "host")]
    import slicer_host

    slicer_host.start(ROOT / "Testing" / "host" / "slicer_layer")
    # The application has these open already.
    import slicer.ScriptedLoadableModule  # type: ignore[import-not-found]
    import slicer.util

    module, milliseconds, seconds_of_processor = None, [], []
    for _ in range(OPENINGS):
        before, busy = time.perf_counter(), time.process_time()
        if module is None:
            module = slicer_host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
            panel = module.widgetRepresentation()
            panel.resize(350, 900)
            panel.show()
            module.enter()
        else:
            slicer.util.reloadScriptedModule("RegistrationNet")
        slicer.app.processEvents()
        milliseconds.append(round(1000 * (time.perf_counter() - before)))
        seconds_of_processor.append(round(1000 * (time.process_time() - busy)))
    assert module is not None
    found = {
        "open_ms": milliseconds,
        "processor_ms": seconds_of_processor,
        "library": sorted(name.partition(".")[2] for name in sys.modules if name.startswith("RegistrationNetLib.")),
        "heavy": sorted({"torch", "SimpleITK", "scipy"} & sys.modules.keys()),
        "has_worker": module.widget.logic.client._worker is not None,
    }
    module.widget.cleanup()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
