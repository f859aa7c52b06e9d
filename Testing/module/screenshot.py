"""Slices of a registered pair with the Jacobian, the expected error and the deformed grid, each with its legend, drawn off screen.

python -m Testing.module.screenshot Resources/Screenshots/jacobian.png
Where there is no display: VTK_DEFAULT_OPENGL_WINDOW=vtkEGLRenderWindow before it.
"""

from __future__ import annotations

import sys
from functools import reduce
from pathlib import Path
from typing import Any

HOST = Path(__file__).resolve().parents[1] / "host"
SIDE = 310


def drawn(views: Any) -> Any:
    """The three slice views beside each other."""
    from PySide6 import QtGui

    images = [view.image() for view in views]
    picture = QtGui.QImage(sum(one.width() for one in images), images[0].height(), QtGui.QImage.Format.Format_RGB888)
    painter = QtGui.QPainter(picture)
    left = 0
    for one in images:
        painter.drawImage(left, 0, one)
        left += one.width()
    painter.end()
    return picture


def below(upper: Any, lower: Any) -> Any:
    from PySide6 import QtGui

    picture = QtGui.QImage(upper.width(), upper.height() + lower.height(), QtGui.QImage.Format.Format_RGB888)
    painter = QtGui.QPainter(picture)
    painter.drawImage(0, 0, upper)
    painter.drawImage(0, upper.height(), lower)
    painter.end()
    return picture


def main(path: str) -> None:
    sys.path.insert(0, str(HOST))
    import slicer_host

    slicer_host.start(HOST / "slicer_layer")
    slicer_host.loadModule(HOST.parents[1] / "RegistrationNet" / "RegistrationNet.py")
    import slice_views
    import slicer
    from PIL import Image

    from RegistrationNet import RegistrationNetLogic
    from RegistrationNetLib.quality.phantom import demo_pair

    from .nodes import volume_node_of

    layout = slice_views.LayoutManager((SIDE, SIDE))
    pair = demo_pair(seed=0)
    fixed, moving = (
        volume_node_of(slicer.mrmlScene, image, name) for image, name in zip(pair[:2], ("fixed", "moving"), strict=True)
    )
    logic = RegistrationNetLogic()
    try:
        result = logic.register(fixed, moving)
    finally:
        logic.close()
    rows = []
    for view in ("jacobian", "error", "grid"):
        logic.showResult(result, view)
        layout.resetSliceViews()
        rows.append(drawn(layout.views.values()))
    assert reduce(below, rows).save(path)
    # A third of the size; of the ways to choose 256 colours the one that leaves the legend smooth.
    picture = Image.open(path).convert("RGB")
    picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
