"""What the slice views show of a result: pixels, drawn off screen by MRML's own pipeline."""

from typing import Any

import numpy as np
import pytest
import slicer

from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.quality.colours import FOLDED, error_colour, jacobian_colour
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
    # Where the volume is kept nothing lies over the image.
    assert quarter(pixels, 0.8, 0.2).tolist() == [0, 0, 0]
    assert np.abs(quarter(pixels, 0.2, 0.55) - jacobian_colour(0.5) / 2.0).max() <= 8
    assert np.abs(quarter(pixels, 0.8, 0.55) - jacobian_colour(2.0) / 2.0).max() <= 8


@pytest.fixture
def told(scene: Any, module: Any, layout: Any) -> Any:  # noqa: F811
    """A grey fixed volume, folded everywhere, with an expected error of 9 mm; a body in the middle of it."""
    fixed, moving = pair_nodes(scene)
    mrml.set_voxels(fixed, Volume(np.full((24, 24, 24), 500, np.int16), ball((0, 0, 0)).world_from_index))
    fixed.GetDisplayNode().SetAutoWindowLevel(False)
    fixed.GetDisplayNode().SetWindowLevelMinMax(0, 1000)
    came = shift_result(with_error=True)
    came.volumes["jacobian"].values[:] = -0.5
    came.volumes["error_mm"].values[:] = 9.0
    nodes = placed(scene, came, fixed=fixed, moving=moving)
    return module.RegistrationResult(nodes, fixed, moving, REPORT, came.body)


@pytest.mark.parametrize(("view", "value", "colour"), [("jacobian", -0.5, FOLDED), ("error", 9.0, error_colour(9.0, 3.0)[0])])
def test_numbers_are_coloured_within_the_body_only(
    layout: Any,
    logic: Any,  # noqa: F811
    told: Any,
    view: str,
    value: float,
    colour: Any,
) -> None:
    logic.showResult(told, view)
    layout.resetSliceViews()
    pixels = axial(layout)
    grey = quarter(pixels, 0.1, 0.1)
    assert np.ptp(grey) == 0
    assert np.abs(quarter(pixels, 0.5, 0.5) - (grey + np.array(colour)) / 2).max() <= 8
    node = getattr(told, f"{view}Node")
    assert (slicer.util.arrayFromVolume(node) == value).all(), "the numbers themselves are as they came"
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node.GetNodeReference(f"RegistrationNet.{view} overlay"))
    assert legend.GetVisibility()
    logic.showResult(told, "fixed")
    assert not legend.GetVisibility()


def test_the_error_is_clear_below_a_voxel(layout: Any, logic: Any, told: Any) -> None:  # noqa: F811
    slicer.util.arrayFromVolume(told.errorNode)[:] = 2.9
    slicer.util.arrayFromVolumeModified(told.errorNode)
    logic.showResult(told, "fixed")
    layout.resetSliceViews()
    plain = quarter(axial(layout), 0.5, 0.5)
    logic.showResult(told, "error")
    assert quarter(axial(layout), 0.5, 0.5).tolist() == plain.tolist()


def test_the_slices_go_to_the_place_that_is_asked_for(layout: Any, logic: Any, told: Any) -> None:  # noqa: F811
    logic.showResult(told, "error")
    layout.resetSliceViews()
    logic.showPlace([4.0, -7.0, 11.0])
    for view in layout.views.values():
        to_ras = view.node.GetXYToRAS()
        centre = to_ras.MultiplyPoint((SIDE / 2, SIDE / 2, 0, 1))[:3]
        np.testing.assert_allclose(centre, (-4.0, 7.0, 11.0), atol=1.0)


def test_a_node_that_takes_the_next_result_shows_that_one(scene: Any, layout: Any, logic: Any, told: Any, module: Any) -> None:  # noqa: F811
    """What a view has made of the old numbers must not stand for the new ones."""
    for view in ("jacobian", "difference", "grid"):
        logic.showResult(told, view)
    made = [told.jacobianNode.GetNodeReference("RegistrationNet.jacobian overlay")]
    made += [
        told.warpedNode.GetNodeReference("RegistrationNet.difference"),
        told.transformNode.GetNodeReference("RegistrationNet.Grid"),
    ]
    outputs = {"jacobian": told.jacobianNode, "warped": told.warpedNode, "transform": told.transformNode}
    came = shift_result(with_error=True)
    nodes = placed(scene, came, fixed=told.fixedNode, moving=told.movingNode, outputs=outputs)
    assert not any(scene.IsNodePresent(node) for node in made)
    again = module.RegistrationResult(nodes, told.fixedNode, told.movingNode, REPORT, came.body)
    logic.showResult(again, "jacobian")
    overlay = again.jacobianNode.GetNodeReference("RegistrationNet.jacobian overlay")
    assert (slicer.util.arrayFromVolume(overlay) == 1.0).all()


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
