"""Pictures of the panel in every state, for people to look at: python -m Testing.panel.screenshots FOLDER [STATE…]

Of those in FOLDER the documentation's are made by python -m Testing.panel.screenshots FOLDER --document Resources/Screenshots.

Each state as it stands in Slicer's module panel, 600 pixels high: at 320 and 500 pixels of width, on light and on dark, with text at
100 % and 150 %; "whole" states are as high as the panel is. The results, one for each verdict, are those of real registrations.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("REGISTRATIONNET_CACHE", "/nonexistent/cache")
sys.path.insert(0, str(ROOT / "Testing" / "host"))
import slicer_host  # noqa: E402, its folder has just been named

slicer_host.start(ROOT / "Testing" / "host" / "slicer_layer")

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from PIL import Image  # noqa: E402

from RegistrationNetLib.errors import ResourceError  # noqa: E402
from RegistrationNetLib.io.nrrd import Volume  # noqa: E402
from RegistrationNetLib.quality.phantom import demo_pair  # noqa: E402
from RegistrationNetLib.slicer_bridge import mrml  # noqa: E402
from RegistrationNetLib.slicer_bridge.client import Client  # noqa: E402

from ..module.nodes import points_node, segmentation_node, volume_node  # noqa: E402
from .conftest import Panel  # noqa: E402
from .fake_client import FakeClient  # noqa: E402
from .test_correct import put_point  # noqa: E402

WIDTHS, HEIGHT = (320, 500), 600
SCALES = (100, 150)
FONT_POINTS = 9.0
SECTIONS = ("moreInputs", "refinement", "device", "outputs")


def main(folder: Path, *only: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    slicer = slicer_host.slicer
    slicer.mrmlScene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
    slicer.util.setSliceViewerLayers = lambda **_: None
    for name, state in STATES.items():
        if only and name not in only:
            continue
        for scale in SCALES:
            _use("light", scale)
            slicer.mrmlScene.Clear(0)
            with _panel() as (panel, client):
                state(panel, client)
                for theme, width in itertools.product(("light", "dark"), WIDTHS):
                    _use(theme, scale)
                    _grab(panel, width, folder / f"{name}-{theme}-{scale}-{width}.png", is_whole="whole" in name)


@contextmanager
def _panel() -> Iterator[tuple[Panel, FakeClient]]:
    loaded = slicer_host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    client = FakeClient()
    sys.modules["RegistrationNet"].Client = lambda: client  # type: ignore[attr-defined]
    panel = Panel(loaded)
    yield panel, client
    panel.close()


def _use(theme: str, scale: int) -> None:
    import qt

    qt.QApplication.setStyle("Fusion")
    font = qt.QApplication.font()
    font.setPointSizeF(FONT_POINTS * scale / 100)
    qt.QApplication.setFont(font)
    palette = qt.QPalette()
    if theme == "dark":
        roles = {
            "Window": "#353535", "WindowText": "#ffffff", "Base": "#2a2a2a", "AlternateBase": "#424242", "Text": "#ffffff",
            "Button": "#353535", "ButtonText": "#ffffff", "Highlight": "#2a82da", "HighlightedText": "#ffffff",
            "ToolTipBase": "#ffffff", "ToolTipText": "#000000", "Link": "#5fa8f0", "PlaceholderText": "#b0b0b0",
        }  # fmt: skip
        for role, colour in roles.items():
            palette.setColor(getattr(qt.QPalette, role), qt.QColor(colour))
        for role in ("WindowText", "Text", "ButtonText"):
            palette.setColor(qt.QPalette.Disabled, getattr(qt.QPalette, role), qt.QColor("#808080"))
    qt.QApplication.setPalette(palette)


def _grab(panel: Panel, width: int, path: Path, *, is_whole: bool) -> None:
    """The module panel as a small screen shows it, or the whole of it; a bar along the bottom would be a defect."""
    for widget in panel.area.findChildren(panel.qt.QWidget):
        if widget.styleSheet:
            widget.setStyleSheet(widget.styleSheet)  # the colours of the theme are read once
        if isinstance(widget, panel.qt.QLabel) and "<a " in widget.text:
            words = widget.text
            widget.clear()
            widget.setText(words)  # so is that of a link
    panel.area.resize(width, HEIGHT)
    panel.settle()
    if is_whole:
        panel.area.resize(width, panel.area.widget().sizeHint().height() + 400)
        panel.settle()
        bottom = panel.ui.logCollapsibleButton.mapTo(panel.area, panel.qt.QPoint(0, panel.ui.logCollapsibleButton.height)).y()
        panel.area.resize(width, bottom + 6)
        panel.settle()
    assert panel.area.widget().minimumSizeHint().width() <= width, f"{path.name} would get a scroll bar"
    panel.area.grab().save(str(path))


def _ready(panel: Panel, client: FakeClient) -> None:
    scene = slicer_host.slicer.mrmlScene
    values = np.zeros((40, 40, 40), np.int16)
    for name, start in (("CT chest, inspiration", 10), ("CT chest, expiration", 12)):
        values[start:30, 10:30, 10:30] = 1000
        volume_node(scene, Volume(values - 1000, np.diag([4.0, 4.0, 4.0, 1.0])), name)
    panel.module.enter()


def _empty(panel: Panel, client: FakeClient) -> None:
    """As the module opens."""


def _open_all(panel: Panel, client: FakeClient) -> None:
    scene = slicer_host.slicer.mrmlScene
    _ready(panel, client)
    segments = {name: Volume(np.ones((4, 4, 4), np.uint8), np.eye(4)) for name in ("Left lung", "Right lung")}
    segmentation_node(scene, segments, "Lungs of inspiration, by hand")
    points_node(scene, [[0, 0, 0]])
    for name in SECTIONS:
        panel.open(name)
    cards = [
        ("cpu", "x86_64", 12300.0),
        ("cuda:0", "NVIDIA H100 80GB HBM3", 71800.0),
        ("cuda:1", "NVIDIA H100 80GB HBM3", 3200.0),
    ]
    client.answer(client.jobs[-1], [{"name": name, "title": title, "free_mb": free} for name, title, free in cards])
    client.poll()
    panel.choose("fixedMaskSelector", "Lungs of inspiration, by hand")
    panel.choose("fixedSegmentCombo", "Left lung")
    panel.choose("deviceCombo", "NVIDIA H100 80GB HBM3, 70.1 GB free")


def _missing(panel: Panel, client: FakeClient) -> None:
    _ready(panel, client)
    panel.choose("modelCombo", "uniGradICON")


def _downloading(panel: Panel, client: FakeClient) -> None:
    _missing(panel, client)
    panel.click("downloadButton")
    client.progress(client.jobs[-1], "download", 0.37, 48)
    client.poll()


def _consent(panel: Panel, client: FakeClient) -> None:
    _ready(panel, client)
    from RegistrationNetLib.slicer_bridge import dependencies

    missing = dependencies.missing
    dependencies.missing = lambda _: ["torch>=2.2", "psutil>=5.9", "tqdm>=4.60"]
    panel.click("registerButton")
    dependencies.missing = missing


def _installing(panel: Panel, client: FakeClient) -> None:
    """As the panel looks while an installer says something."""
    from RegistrationNetLib.slicer_bridge import installation

    kept = installation.commands
    said = "import time; print('Downloading torch-2.9.0-cp312-cp312-manylinux_2_28_x86_64.whl (203.1 MB)', flush=True); time.sleep(600)"
    installation.commands = lambda *_: [("-c", said)] * 3
    _consent(panel, client)
    panel.click("installButton")
    panel.until(lambda: "Downloading" in panel.ui.consentLabel.text)
    installation.commands = kept


def _running(panel: Panel, client: FakeClient) -> None:
    _ready(panel, client)
    panel.click("registerButton")
    client.progress(client.jobs[-1], "refine", 0.62, 23)
    client.poll()


def _error(panel: Panel, client: FakeClient) -> None:
    _ready(panel, client)
    panel.click("registerButton")
    words = "The registration needs about 9.8 GB on cuda; 3.1 GB are free. Crop the images, or resample them to a larger spacing."
    client.fail(client.jobs[-1], ResourceError(words))
    client.poll()


def _error_details(panel: Panel, client: FakeClient) -> None:
    _error(panel, client)
    panel.ui.messageLabel.linkActivated.emit("details")
    panel.open("log")


def _gpu_absent(panel: Panel, client: FakeClient) -> None:
    _ready(panel, client)
    panel.parameters.device = "cuda:1"
    panel.open("device")
    client.answer(client.jobs[-1], [{"name": "cpu", "title": "x86_64", "free_mb": 12300.0}])
    client.poll()


def _volume_of(image: sitk.Image) -> Volume:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), matrix)


@functools.cache
def _head() -> Any:
    return demo_pair(5, shape=(30, 34, 30), spacing_mm=6.5)


def _unrelated() -> sitk.Image:
    noise = np.random.default_rng(1).normal(size=_head().fixed.GetSize()[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(noise)
    image.CopyInformation(_head().fixed)
    return image


QUICK: dict[str, Any] = {"align": ["centre"], "steps": 8, "repeats": 1}
# By verdict: moving, and the options with which it comes out so. Landmarks that were placed 8 mm off ask to look closely.
CASES: dict[str, tuple[Callable[[], sitk.Image], Callable[[], dict[str, Any]]]] = {
    "fits": (lambda: _head().moving, lambda: {"align": ["centre", "rigid"], "repeats": 2}),
    "look closely": (lambda: _head().moving, lambda: {**QUICK, **_misplaced()}),
    "does not fit": (_unrelated, lambda: QUICK),
}


def _misplaced() -> dict[str, Any]:
    points = [(20.0, 10.0, 0.0), (-20.0, 10.0, 5.0), (0.0, -25.0, 10.0), (5.0, 20.0, -15.0), (-10.0, 0.0, 20.0)]
    partners = [_head().known.moving_from_fixed.TransformPoint(point) for point in points]
    return {"fixed_landmarks": [list(point) for point in points], "moving_landmarks": [[x + 8.0, y, z] for x, y, z in partners]}


def _put(volumes: dict[str, Volume]) -> None:
    scene = slicer_host.slicer.mrmlScene
    for side, name in (("fixed", "MR head, first visit"), ("moving", "MR head, second visit")):
        volume_node(scene, volumes[side], name)


@functools.cache
def _answer(verdict: str) -> tuple[dict[str, Volume], Any]:
    """A pair and what a real worker makes of it; for all pictures of a result. It must be of that verdict."""
    moving, options = CASES[verdict]
    volumes = {"fixed": _volume_of(_head().fixed), "moving": _volume_of(moving())}
    with Client() as client:
        answer = client.register(dict(volumes), options=options(), displacement_axes=mrml.DISPLACEMENT_AXES).wait()
    came = answer.report["verdict"]
    assert came["words"] == verdict, f"the pair for {verdict!r} came out as {came}"
    return volumes, answer


def _with_verdict(panel: Panel, client: FakeClient, verdict: str) -> None:
    volumes, answer = _answer(verdict)
    slicer_host.slicer.mrmlScene.Clear(0)
    _put(volumes)
    panel.module.enter()
    panel.click("registerButton")
    client.answer(client.jobs[-1], answer)
    client.poll()
    assert not panel.message, panel.message


def _result(panel: Panel, client: FakeClient) -> None:
    _with_verdict(panel, client, "fits")


def _result_amber(panel: Panel, client: FakeClient) -> None:
    _with_verdict(panel, client, "look closely")
    panel.click("gridViewButton")


def _result_red(panel: Panel, client: FakeClient) -> None:
    _with_verdict(panel, client, "does not fit")
    panel.click("errorViewButton")
    cursor = slicer_host.slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    cursor.SetCursorPositionRAS((5.0, 10.0, 0.0))


def _correct(panel: Panel, client: FakeClient) -> None:
    """Two pairs of points are put, and the next click puts the third."""
    _with_verdict(panel, client, "look closely")
    panel.click("correctButton")
    for number, place in enumerate([(20.0, 10.0, 0.0), (-20.0, 10.0, 5.0), (0.0, -25.0, 10.0)]):
        if number:
            panel.click("addPairButton")
        put_point(panel, place)
        if number < 2:
            put_point(panel, (place[0] + 6.0, place[1] + number, place[2]))


def _result_error(panel: Panel, client: FakeClient) -> None:
    _result(panel, client)
    panel.click("errorViewButton")
    cursor = slicer_host.slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    cursor.SetCursorPositionRAS((5.0, 10.0, 0.0))


def _result_jacobian(panel: Panel, client: FakeClient) -> None:
    _result(panel, client)
    panel.click("jacobianViewButton")


def _result_numbers(panel: Panel, client: FakeClient) -> None:
    _result_jacobian(panel, client)
    panel.open("numbers")
    panel.open("use")
    panel.ui.marksTable.setCurrentCell(1, 1)


def _result_save(panel: Panel, client: FakeClient) -> None:
    _result(panel, client)
    panel.open("use")


def _several(panel: Panel, client: FakeClient) -> None:
    """Five follow-ups to one volume: three are done, the fourth is worked on."""
    volumes, _answered = _answer("fits")
    scene, hierarchy = slicer_host.slicer.mrmlScene, slicer_host.slicer.vtkMRMLSubjectHierarchyNode
    hierarchy = hierarchy.GetSubjectHierarchyNode(scene)
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Follow-ups")
    for name in ("MR head, first visit", *(f"MR head, {month} months later" for month in (3, 6, 9, 12, 15))):
        hierarchy.CreateItem(folder, volume_node(scene, volumes["fixed"], name))
    panel.module.enter()
    panel.open("several")
    panel.choose("folderSelector", "Follow-ups")
    panel.click("severalButton")
    for verdict in ("fits", "look closely", None):
        panel.until(lambda: client.unfinished)
        if verdict is None:
            words = "moving has one value everywhere (0); registration needs contrast. Check the file or the mask."
            client.fail(client.jobs[-1], ResourceError(words))
        else:
            client.answer(client.jobs[-1], _answer(verdict)[1])
        client.poll()
        panel.until(lambda: client.unfinished)
    client.progress(client.jobs[-1], "repeats", 0.62, 23)
    client.poll()


def _several_ended(panel: Panel, client: FakeClient) -> None:
    _several(panel, client)
    panel.click("severalCancelButton")
    panel.until(lambda: not panel.widget.severalPanel.is_running)
    panel.ui.severalTable.cellClicked.emit(1, 1)


STATES: dict[str, Callable[[Panel, Any], None]] = {
    "empty": _empty,
    "ready": _ready,
    "whole-all-open": _open_all,
    "weights-missing": _missing,
    "downloading": _downloading,
    "consent": _consent,
    "installing": _installing,
    "running": _running,
    "error": _error,
    "error-details": _error_details,
    "gpu-absent": _gpu_absent,
    "result": _result,
    "result-amber": _result_amber,
    "result-red": _result_red,
    "result-jacobian": _result_jacobian,
    "result-error": _result_error,
    "result-save": _result_save,
    "correct": _correct,
    "correct-whole": _correct,
    "result-numbers-whole": _result_numbers,
    "several-whole": _several,
    "several-ended-whole": _several_ended,
}

# The documentation's pictures: what stands in each, from left to right.
DOCUMENTED = {
    "panel.png": ("result-light-100-320", "result-amber-light-100-320", "result-error-light-100-320", "result-dark-150-320"),
    "panel_open.png": ("empty-light-100-320",),
    "panel_ready.png": ("ready-light-100-320",),
    "panel_network.png": ("weights-missing-light-100-320",),
    "panel_consent.png": ("consent-light-100-320",),
    "panel_running.png": ("running-light-100-320",),
    "panel_fits.png": ("result-light-100-320",),
    "panel_jacobian.png": ("result-jacobian-light-100-320",),
    "panel_error.png": ("result-error-light-100-320",),
    "panel_correct.png": ("correct-light-100-320",),
    "panel_save.png": ("result-save-light-100-320",),
    "panel_several.png": ("several-whole-light-100-320", "several-ended-whole-light-100-320"),
}
GAP = 12


def document(pictures: Path, folder: Path) -> None:
    """The documentation's pictures, with no empty panel at the bottom."""
    for name, parts in DOCUMENTED.items():
        images = [Image.open(pictures / f"{part}.png").convert("RGB") for part in parts]
        width = sum(one.width for one in images) + GAP * (len(images) - 1)
        joined = Image.new("RGB", (width, max(map(_used, images))), "white")
        left = 0
        for one in images:
            joined.paste(one, (left, 0))
            left += one.width + GAP
        joined.save(folder / name, optimize=True)


def _used(image: Image.Image) -> int:
    """The height down to the last row that is not of one colour alone."""
    values = np.asarray(image)
    rows = np.flatnonzero((values != values[:, :1]).any(axis=(1, 2)))
    return min(image.height, int(rows[-1]) + GAP)


if __name__ == "__main__":
    if sys.argv[2:3] == ["--document"]:
        document(Path(sys.argv[1]), Path(sys.argv[3]))
    else:
        main(Path(sys.argv[1]), *sys.argv[2:])
