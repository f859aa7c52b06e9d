"""What the slice views show of a result: pixels, drawn off screen by MRML's own pipeline."""

from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.quality.colours import FOLDED, jacobian_colour
from RegistrationNetLib.slicer_bridge import mrml
from RegistrationNetLib.slicer_bridge.scene_results import placed

from ..worker_input import ball
from .nodes import pair_nodes
from .test_logic import logic, module  # noqa: F401, fixtures
from .test_scene_results import REPORT
from .test_scene_results import result as shift_result

SIDE = 240


@pytest.fixture(scope="module")
def layout(host: Any) -> Any:
    import slice_views

    return slice_views.LayoutManager((SIDE, SIDE))


@pytest.fixture
def result(scene: Any, module: Any, layout: Any) -> Any:  # noqa: F811
    """A black fixed volume, and determinants in four quarters of every axial slice: folded, half, kept and double."""
    fixed, moving = pair_nodes(scene)
    mrml.set_voxels(fixed, Volume(np.zeros((24, 24, 24), np.int16), ball((0, 0, 0)).world_from_index))
    fixed.GetDisplayNode().SetAutoWindowLevel(False)
    fixed.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    came = shift_result()
    values = came.volumes["jacobian"].values
    values[:, :12, :12], values[:, :12, 12:], values[:, 12:, :12], values[:, 12:, 12:] = -0.5, 0.5, 1.0, 2.0
    nodes = placed(scene, came, fixed=fixed, moving=moving)
    return module.RegistrationResult(nodes, fixed, moving, REPORT)


def axial(layout: Any) -> Any:
    """[row, column, 3] of the axial view, as it is drawn."""
    image = layout.views["Red"].image()
    pixels = np.frombuffer(image.constBits(), np.uint8).reshape(SIDE, image.bytesPerLine())[:, : 3 * SIDE]
    return pixels.reshape(SIDE, SIDE, 3).astype(int)


def quarter(pixels: Any, row: float, column: float) -> Any:
    return pixels[int(row * SIDE), int(column * SIDE)]


def test_determinants_are_seen_in_their_colours(layout: Any, logic: Any, result: Any) -> None:  # noqa: F811
    """The first row of the lattice is anterior, its first column right: both come first on the screen."""
    logic.showResult(result, "jacobian")
    layout.resetSliceViews()
    pixels = axial(layout)
    # By half over black; away from the legend, which is at the right.
    assert np.abs(quarter(pixels, 0.2, 0.2) - np.array(FOLDED) / 2).max() <= 2
    assert np.abs(quarter(pixels, 0.8, 0.2) - jacobian_colour(1.0) / 2.0).max() <= 4
    assert np.abs(quarter(pixels, 0.2, 0.55) - jacobian_colour(0.5) / 2.0).max() <= 8
    assert np.abs(quarter(pixels, 0.8, 0.55) - jacobian_colour(2.0) / 2.0).max() <= 8


def test_the_legend_shows_all_colours_and_those_of_folds_in_full(layout: Any, logic: Any, result: Any) -> None:  # noqa: F811
    logic.showResult(result, "fixed")
    layout.resetSliceViews()
    without = axial(layout)
    logic.showResult(result, "jacobian")
    legend = axial(layout)[:, int(0.9 * SIDE) :]
    assert not without.any(axis=-1)[:, int(0.9 * SIDE) :].any()
    for determinant in (-0.5, 0.25, 1.0, 3.9):
        assert np.abs(legend - jacobian_colour(determinant)).max(axis=-1).min() <= 12


def test_the_grid_is_drawn_over_the_warped_volume(layout: Any, logic: Any, result: Any) -> None:  # noqa: F811
    logic.showResult(result, "warped")
    layout.resetSliceViews()
    plain = axial(layout)
    logic.showResult(result, "grid")
    changed = (axial(layout) != plain).any(axis=-1)
    assert 0.02 < changed.mean() < 0.6


@pytest.mark.parametrize("view", ["fixed", "moving", "warped", "difference", "checkerboard"])
def test_every_view_can_be_drawn_and_leaves_no_legend(layout: Any, logic: Any, result: Any, view: str) -> None:  # noqa: F811
    logic.showResult(result, "jacobian")
    axial(layout)
    logic.showResult(result, view)
    layout.resetSliceViews()
    pixels = axial(layout)
    assert not np.abs(pixels[:, int(0.9 * SIDE) :] - FOLDED).max(axis=-1).min() <= 12
    assert slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.jacobianNode).GetVisibility() == 0
