"""Nodes as volumes and points of the world, and back, on the real MRML."""

import itertools
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk

from RegistrationNetLib.errors import GeometryError, InputError
from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge import mrml, scene_sampling
from RegistrationNetLib.slicer_bridge.scene_sampling import at_once

from ..worker_input import ball
from .nodes import bent_transform, centre_ras, from_world, linear_transform, points_node, segmentation_node, to_world, volume_node

ORIENTATIONS = [
    np.eye(3)[list(order)] * signs for order in itertools.permutations(range(3)) for signs in itertools.product([1, -1], repeat=3)
]


def box(directions: Any = np.eye(3), dtype: str = "int16") -> Volume:
    """5 x 4 x 3 voxels of unequal spacing away from the origin."""
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([np.asarray(directions) * [0.7, 1.1, 2.5], [11.0, -22.0, 33.0]])
    return Volume(np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype), matrix)


@pytest.mark.parametrize("directions", ORIENTATIONS, ids=lambda one: "".join(f"{value:+.0f}" for value in one.ravel()))
def test_every_orientation_comes_back(scene: Any, directions: Any) -> None:
    volume = box(directions)
    node = volume_node(scene, volume)
    back = at_once(mrml.volume_of(node, "fixed"))
    assert np.array_equal(back.values, volume.values)
    assert np.allclose(back.world_from_index, volume.world_from_index, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("kind", ["vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode"])
def test_every_pixel_type_comes_back(scene: Any, dtype: str, kind: str) -> None:
    volume = box(dtype=dtype)
    back = at_once(mrml.volume_of(volume_node(scene, volume, kind=kind), "fixed"))
    assert back.values.dtype == volume.values.dtype
    assert np.array_equal(back.values, volume.values)


def test_an_oblique_volume_lies_where_itk_has_it(scene: Any) -> None:
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    volume = box(turn)
    image = sitk.GetImageFromArray(volume.values)
    image.SetSpacing([0.7, 1.1, 2.5])
    image.SetDirection(turn.ravel().tolist())
    image.SetOrigin([11.0, -22.0, 33.0])
    node = volume_node(scene, volume)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    left, posterior, superior = image.TransformIndexToPhysicalPoint((4, 1, 2))
    assert np.allclose(matrix.MultiplyPoint([4, 1, 2, 1])[:3], (-left, -posterior, superior))


def test_a_linear_parent_moves_the_volume_and_no_voxel(scene: Any) -> None:
    volume = box()
    node = volume_node(scene, volume)
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0] * 1.5
    turn[:3, 3] = 5, 6, 7
    inner, outer = linear_transform(scene, turn), linear_transform(scene, np.diag([-1, 1, 1, 1.0]))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    node.SetAndObserveTransformNodeID(inner.GetID())
    back = at_once(mrml.volume_of(node, "fixed"))
    assert np.array_equal(back.values, volume.values)
    expected = mrml.LPS_FROM_RAS @ np.diag([-1, 1, 1, 1.0]) @ turn @ mrml.LPS_FROM_RAS @ volume.world_from_index
    assert np.allclose(back.world_from_index, expected)


SHEAR = np.array([[1, 0.3, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]])


def test_a_volume_under_shear_is_registered_as_it_is_seen(scene: Any) -> None:
    node = volume_node(scene, ball((0, 0, 0)))
    node.SetAndObserveTransformNodeID(linear_transform(scene, SHEAR).GetID())
    volume = at_once(mrml.volume_of(node, "fixed"))
    steps = volume.world_from_index[:3, :3]
    assert np.allclose(steps.T @ steps, np.diag(np.diag(steps.T @ steps)))
    assert np.allclose(centre_ras(node), (4, -3, 2), atol=0.1)


def test_a_volume_under_a_bent_transform_is_registered_as_it_is_seen(scene: Any) -> None:
    node, bent = volume_node(scene, ball((6, 5, -4))), bent_transform(scene)
    node.SetAndObserveTransformNodeID(bent.GetID())
    volume = at_once(mrml.volume_of(node, "fixed"))
    copy = volume_node(scene, ball((6, 5, -4)))
    rng = np.random.default_rng(0)
    values, inverse = sitk.GetImageFromArray(copy_values(copy)), np.linalg.inv(volume.world_from_index)
    assert inverse.shape == (4, 4)
    for index in rng.integers(8, 16, (20, 3)):
        seen = volume.values[tuple(index[::-1])]
        world_ras = (mrml.LPS_FROM_RAS @ volume.world_from_index @ [*index, 1])[:3]
        place = np.linalg.inv(mrml.LPS_FROM_RAS @ ball((6, 5, -4)).world_from_index) @ [*from_world(bent, world_ras), 1]
        assert seen == pytest.approx(values.EvaluateAtContinuousIndex(place[:3].tolist()), abs=1.0)
    assert np.allclose(centre_ras(node), to_world(bent, (-6, -5, -4)), atol=1.0)


def copy_values(node: Any) -> Any:
    return at_once(mrml.volume_of(node, "volume")).values


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("most", [5, 40, 300])
def test_blocks_put_together_are_the_whole(scene: Any, monkeypatch: pytest.MonkeyPatch, most: int, bent: bool) -> None:
    """Rows of a layer, layers, and several layers at a time."""
    node = volume_node(scene, ball((0, 0, 0), size=13))
    above = (
        bent_transform(scene) if bent else linear_transform(scene, [[1, 0.3, 0, 2], [0, 1, 0, 0], [0, 0.1, 1, 1], [0, 0, 0, 1]])
    )
    node.SetAndObserveTransformNodeID(above.GetID())
    whole = at_once(mrml.volume_of(node, "fixed"))
    field = at_once(mrml.transform_of(bent_transform(scene), whole))
    assert isinstance(field, Volume)
    for name in ("LINEAR_BLOCK", "BENT_BLOCK"):
        monkeypatch.setattr(scene_sampling, name, most)
    steps = list(mrml.volume_of(node, "fixed"))
    assert len(steps) > 3
    assert np.array_equal(at_once(mrml.volume_of(node, "fixed")).values, whole.values)
    assert np.ptp(whole.values) > 0
    again = at_once(mrml.transform_of(bent_transform(scene), whole))
    assert isinstance(again, Volume)
    assert np.array_equal(again.values, field.values)


def test_what_has_no_voxels_is_refused(scene: Any) -> None:
    with pytest.raises(InputError, match="fixed is not chosen; a volume is needed"):
        at_once(mrml.volume_of(None, "fixed"))
    with pytest.raises(InputError, match=r"fixed is linear \(LinearTransform\)"):
        at_once(mrml.volume_of(linear_transform(scene, np.eye(4)), "fixed"))
    with pytest.raises(InputError, match=r"moving \(empty\) holds no voxels"):
        at_once(mrml.volume_of(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"), "moving"))


def test_axes_that_span_no_volume_are_refused(scene: Any) -> None:
    node = volume_node(scene, box())
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(1, 1, 0)
    matrix.SetElement(1, 0, 1)
    node.SetIJKToRASMatrix(matrix)
    with pytest.raises(GeometryError, match=r"axes of fixed \(volume\) span no volume"):
        at_once(mrml.volume_of(node, "fixed"))


def test_a_color_volume_travels_with_its_channels(scene: Any) -> None:
    volume = Volume(np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3), np.eye(4))
    node = volume_node(scene, volume, kind="vtkMRMLVectorVolumeNode")
    assert np.array_equal(at_once(mrml.volume_of(node, "fixed")).values, volume.values)


def cube(low: int, high: int) -> Volume:
    """1 in a cube of the lattice of the ball."""
    lattice = ball((0, 0, 0))
    values = np.zeros((24, 24, 24), np.uint8)
    values[low:high, low:high, low:high] = 1
    return Volume(values, lattice.world_from_index)


def test_a_label_map_on_the_same_lattice_is_a_mask_as_it_is(scene: Any) -> None:
    node = volume_node(scene, Volume(cube(5, 9).values * 7, cube(5, 9).world_from_index), kind="vtkMRMLLabelMapVolumeNode")
    mask = at_once(mrml.mask_of(node, ball((0, 0, 0))))
    assert mask.values.dtype == np.uint8
    assert np.array_equal(mask.values, cube(5, 9).values)


def test_a_label_map_on_another_lattice_is_brought_over(scene: Any) -> None:
    flipped = cube(5, 9)
    matrix = flipped.world_from_index @ np.array([[-1, 0, 0, 23], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    node = volume_node(scene, Volume(flipped.values[:, :, ::-1].copy(), matrix), kind="vtkMRMLLabelMapVolumeNode")
    assert np.array_equal(at_once(mrml.mask_of(node, ball((0, 0, 0)))).values, cube(5, 9).values)


@pytest.mark.parametrize("transform", ["none", "linear", "bent"])
def test_a_segmentation_is_a_mask_where_it_is_seen(scene: Any, transform: str) -> None:
    """Under any transform it falls onto the same voxels as a label map under the same one."""
    segments = {"liver": cube(5, 9), "tumour": cube(12, 14)}
    node = segmentation_node(scene, segments)
    label_map = volume_node(
        scene, Volume(cube(5, 9).values + cube(12, 14).values, cube(5, 9).world_from_index), kind="vtkMRMLLabelMapVolumeNode"
    )
    if transform != "none":
        parent = bent_transform(scene) if transform == "bent" else linear_transform(scene, SHEAR)
        for one in (node, label_map):
            one.SetAndObserveTransformNodeID(parent.GetID())
    like = ball((0, 0, 0))
    union = at_once(mrml.mask_of(node, like))
    assert union.values.any()
    assert np.array_equal(union.values, at_once(mrml.mask_of(label_map, like)).values)
    if transform == "none":
        assert np.array_equal(at_once(mrml.mask_of(node, like, segment="tumour")).values, cube(12, 14).values)
        first_id = node.GetSegmentation().GetNthSegmentID(0)
        assert np.array_equal(at_once(mrml.mask_of(node, like, segment=first_id)).values, cube(5, 9).values)


@pytest.mark.parametrize("transform", ["none", "linear", "bent"])
def test_segments_that_share_an_array_are_taken_apart(scene: Any, transform: str) -> None:
    """As they do when they come from a label map, or were painted side by side."""
    painted = Volume(cube(5, 9).values + 2 * cube(12, 14).values, cube(5, 9).world_from_index)
    label_map = volume_node(scene, painted, kind="vtkMRMLLabelMapVolumeNode")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    assert node.GetSegmentation().GetNumberOfLayers("Binary labelmap") == 1
    if transform != "none":
        parent = bent_transform(scene) if transform == "bent" else linear_transform(scene, SHEAR)
        for one in (node, label_map):
            one.SetAndObserveTransformNodeID(parent.GetID())
    like = ball((0, 0, 0))
    expected, _ = at_once(mrml.labels_of(label_map, label_map, like=(like, like)))
    assert set(np.unique(expected.values)) == {0, 1, 2}
    labels, _ = at_once(mrml.labels_of(node, node, like=(like, like)))
    assert np.array_equal(labels.values, expected.values)
    for number, segment in enumerate(mrml.segments_of(node), start=1):
        mask = at_once(mrml.mask_of(node, like, segment=segment)).values
        assert np.array_equal(mask, expected.values == number)


def test_where_segments_overlap_the_later_one_counts_whatever_they_share(scene: Any) -> None:
    painted = Volume(cube(5, 9).values + 2 * cube(12, 14).values, cube(5, 9).world_from_index)
    label_map = volume_node(scene, painted, kind="vtkMRMLLabelMapVolumeNode")
    node = segmentation_node(scene, {"second": cube(8, 13)})
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, node)
    second, first, third = mrml.segments_of(node)
    node.GetSegmentation().SetSegmentIndex(first, 0)
    assert list(mrml.segments_of(node)) == [first, second, third]
    assert node.GetSegmentation().GetNumberOfLayers("Binary labelmap") == 2
    values = at_once(mrml.labels_of(node, node, like=(painted, painted)))[0].values
    rank = {name: number for number, name in enumerate(sorted(mrml.segments_of(node).values()), start=1)}
    numbers = [rank[name] for name in mrml.segments_of(node).values()]
    expected = np.zeros_like(values)
    for number, one in zip(numbers, (cube(5, 9), cube(8, 13), cube(12, 14)), strict=True):
        expected[one.values != 0] = number
    assert np.array_equal(values, expected)


def test_a_segmentation_without_segments_is_an_empty_mask(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    assert not at_once(mrml.mask_of(node, ball((0, 0, 0)))).values.any()


def test_an_empty_segment_is_an_empty_mask(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    node.GetSegmentation().AddEmptySegment("nothing")
    assert not at_once(mrml.mask_of(node, ball((0, 0, 0)))).values.any()


def test_surfaces_that_cannot_be_made_voxels_are_no_empty_mask(scene: Any) -> None:
    """Here they never can: slicer-core lacks the conversion."""
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(20)
    sphere.Update()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "surfaces")
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "ball", [1, 0, 0])
    with pytest.raises(InputError, match="segment ball of surfaces cannot be made voxels"):
        at_once(mrml.mask_of(node, box()))


def test_a_segment_that_is_not_there_is_named(scene: Any) -> None:
    node = segmentation_node(scene, {"liver": cube(5, 9)})
    with pytest.raises(InputError, match="no segment 'spleen'; its segments are liver"):
        at_once(mrml.mask_of(node, ball((0, 0, 0)), segment="spleen"))


def test_what_is_neither_label_map_nor_segmentation_is_no_mask(scene: Any) -> None:
    with pytest.raises(InputError, match="no label map with voxels and no segmentation"):
        at_once(mrml.mask_of(linear_transform(scene, np.eye(4)), ball((0, 0, 0))))


def test_segments_of_two_segmentations_are_paired_by_name(scene: Any) -> None:
    fixed = segmentation_node(scene, {"liver": cube(5, 9), "tumour": cube(12, 14)})
    moving = segmentation_node(scene, {"tumour": cube(13, 15), "liver": cube(6, 10)})
    like = ball((0, 0, 0))
    one, two = at_once(mrml.labels_of(fixed, moving, like=(like, like)))
    assert one.values[6, 6, 6] == two.values[7, 7, 7] != 0
    assert one.values[12, 12, 12] == two.values[13, 13, 13] != 0
    assert one.values[6, 6, 6] != one.values[12, 12, 12]


def test_beside_a_label_map_a_segmentation_has_its_label_values(scene: Any) -> None:
    label_map = volume_node(scene, Volume(cube(5, 9).values * 42, cube(5, 9).world_from_index), kind="vtkMRMLLabelMapVolumeNode")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(label_map, segmentation)
    like = ball((0, 0, 0))
    one, two = at_once(mrml.labels_of(segmentation, label_map, like=(like, like)))
    assert np.array_equal(one.values, two.values)
    assert set(np.unique(one.values)) == {0, 42}


def test_markups_are_points_of_the_world(scene: Any) -> None:
    node = points_node(scene, [(1, 2, 3), (-4, 5, 6)])
    assert np.array_equal(mrml.points_of(node, "points").points_mm, [(-1, -2, 3), (4, -5, 6)])
    node.SetAndObserveTransformNodeID(linear_transform(scene, np.diag([2, 2, 2, 1.0])).GetID())
    assert np.allclose(mrml.points_of(node, "points").points_mm, [(-2, -4, 6), (8, -10, 12)])


def test_points_without_a_place_and_those_that_are_switched_off_do_not_count(scene: Any) -> None:
    node = points_node(scene, [(1, 2, 3), (4, 5, 6), (7, 8, 9)], "F")
    node.UnsetNthControlPointPosition(1)
    found = mrml.points_of(node, "the fixed landmarks")
    assert (found.numbers, found.count, found.labels) == ((0, 2), 3, ("F-1", "F-3"))
    node.SetNthControlPointSelected(0, False)
    assert mrml.points_of(node, "the fixed landmarks").points_mm.tolist() == [[-7, -8, 9]]
    node.SetNthControlPointSelected(2, False)
    with pytest.raises(InputError, match=r"the fixed landmarks \(F\) hold no point that is placed and selected"):
        mrml.points_of(node, "the fixed landmarks")
    with pytest.raises(InputError, match="the fixed landmarks are not chosen"):
        mrml.points_of(None, "the fixed landmarks")


def test_a_linear_transform_node_is_a_matrix_of_points_of_fixed(scene: Any) -> None:
    inner, outer = linear_transform(scene, SHEAR), linear_transform(scene, np.diag([2, 1, 1, 1.0]))
    inner.SetAndObserveTransformNodeID(outer.GetID())
    matrix = at_once(mrml.transform_of(inner, ball((0, 0, 0))))
    assert np.allclose(matrix @ mrml.LPS_FROM_RAS @ [1, 2, 3, 1], mrml.LPS_FROM_RAS @ [*from_world(inner, (1, 2, 3)), 1])


def test_a_bent_transform_node_is_displacements_of_points_of_fixed(scene: Any) -> None:
    node, like = bent_transform(scene), ball((0, 0, 0))
    field = at_once(mrml.transform_of(node, like))
    for index in [(0, 0, 0), (12, 3, 20), (23, 23, 23)]:
        point = (like.world_from_index @ [*index, 1])[:3]
        flip = np.array([-1, -1, 1])
        assert np.allclose(point + field.values[index[::-1]], flip * from_world(node, flip * point), atol=1e-3)


def test_what_is_no_transform_is_refused(scene: Any) -> None:
    with pytest.raises(InputError, match="The initial transform is volume"):
        at_once(mrml.transform_of(volume_node(scene, box()), box()))


@pytest.mark.parametrize("directions", ORIENTATIONS[::7], ids=lambda one: "".join(f"{value:+.0f}" for value in one.ravel()))
def test_displacements_become_the_from_parent_side_of_a_grid_transform(scene: Any, directions: Any) -> None:
    lattice = box(directions)
    field = Volume(np.random.default_rng(4).normal(size=(3, 4, 5, 3)).astype(np.float32), lattice.world_from_index)
    lps = field.values * mrml.DISPLACEMENT_AXES
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    mrml.set_displacements(node, field)
    flip = np.array([-1, -1, 1])
    for index in itertools.product(range(5), range(4), range(3)):
        point = (lattice.world_from_index @ [*index, 1])[:3]
        assert np.allclose(flip * from_world(node, flip * point), point + lps[index[::-1]], atol=1e-5)


def test_a_matrix_becomes_the_from_parent_side_of_a_linear_transform(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "affine")
    mrml.set_matrix(node, SHEAR.tolist())
    flip = np.array([-1, -1, 1])
    assert np.allclose(flip * from_world(node, flip * [1, 2, 3]), (SHEAR @ [1, 2, 3, 1])[:3])


def test_voxels_outlive_the_array_that_they_came_in(scene: Any) -> None:
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    mrml.set_voxels(node, Volume(np.full((8, 8, 8), 5, np.int16), np.eye(4)))
    [np.zeros((8, 8, 8), np.int16) for _ in range(1000)]
    assert (slicer.util.arrayFromVolume(node) == 5).all()


def test_the_displacements_of_a_grid_transform_come_back_as_they_were_set(scene: Any) -> None:
    matrix = np.diag([2.0, 3.0, 4.0, 1.0])
    matrix[:3, 3] = [5.0, -6.0, 7.0]
    values = np.random.default_rng(0).random((5, 6, 7, 3)).astype(np.float32)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "grid")
    mrml.set_displacements(node, Volume(values, matrix))
    back = mrml.grid_displacements(node)
    assert back is not None
    assert np.allclose(back.world_from_index, matrix)
    assert np.allclose(back.values, values * mrml.DISPLACEMENT_AXES)
    assert mrml.grid_displacements(bent_transform(scene)) is None
    node.SetAndObserveTransformNodeID(linear_transform(scene, np.eye(4)).GetID())
    assert mrml.grid_displacements(node) is None
