"""Nodes for the scene's tests."""

from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.slicer_bridge import mrml
from RegistrationNetLib.slicer_bridge.scene_sampling import at_once

from ..worker_input import ball


def volume_node(scene: Any, volume: Volume, name: str = "volume", kind: str = "vtkMRMLScalarVolumeNode") -> Any:
    node = scene.AddNewNodeByClass(kind, name)
    mrml.set_voxels(node, Volume(volume.values.copy(), volume.world_from_index))
    node.CreateDefaultDisplayNodes()
    return node


def volume_node_of(scene: Any, image: sitk.Image, name: str) -> Any:
    """A SimpleITK image as a node."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return volume_node(scene, Volume(sitk.GetArrayFromImage(image), matrix), name)


def pair_nodes(scene: Any, size: int = 24) -> tuple[Any, Any]:
    """Two balls, 5 mm apart: at the origin, and at (-3, 4, 0) mm RAS."""
    return volume_node(scene, ball((0, 0, 0), size), "fixed"), volume_node(scene, ball((3, -4, 0), size), "moving")


def linear_transform(scene: Any, matrix: Any, name: str = "linear") -> Any:
    """A transform node that takes what lies under it to the world by `matrix` (RAS)."""
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    values = vtk.vtkMatrix4x4()
    values.DeepCopy(np.asarray(matrix, dtype=float).ravel().tolist())
    node.SetMatrixTransformToParent(values)
    return node


def bent_transform(scene: Any, name: str = "bent") -> Any:
    """A smooth non-linear transform node: thin plates between six pairs of points."""
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    rng = np.random.default_rng(3)
    for point in rng.uniform(-40, 40, (6, 3)):
        source.InsertNextPoint(point)
        target.InsertNextPoint(point + rng.uniform(-4, 4, 3))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetBasisToR()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", name)
    node.SetAndObserveTransformFromParent(spline)
    return node


def points_node(scene: Any, points_ras: Any, name: str = "points") -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for point in points_ras:
        node.AddControlPoint(*map(float, point))
    return node


def segmentation_node(scene: Any, volumes: dict[str, Volume], name: str = "segmentation") -> Any:
    """One segment per binary volume."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    for segment, volume in volumes.items():
        label_map = volume_node(scene, volume, segment, "vtkMRMLLabelMapVolumeNode")
        image = slicer.vtkOrientedImageData()
        image.DeepCopy(label_map.GetImageData())
        matrix = vtk.vtkMatrix4x4()
        label_map.GetIJKToRASMatrix(matrix)
        image.SetImageToWorldMatrix(matrix)
        node.AddSegmentFromBinaryLabelmapRepresentation(image, segment)
        scene.RemoveNode(label_map)
    return node


def from_world(node: Any, point_ras: Any) -> Any:
    transform = vtk.vtkGeneralTransform()
    node.GetTransformFromWorld(transform)
    return np.array(transform.TransformPoint(*map(float, point_ras)))


def to_world(node: Any, point_ras: Any) -> Any:
    transform = vtk.vtkGeneralTransform()
    node.GetTransformToWorld(transform)
    return np.array(transform.TransformPoint(*map(float, point_ras)))


def centre_ras(node: Any) -> Any:
    """The brightness-weighted centre of a volume where the user sees it."""
    volume = at_once(mrml.volume_of(node, "volume"))
    weights = volume.values.astype(float) - volume.values.min()
    indices = np.stack(np.meshgrid(*(np.arange(size) for size in weights.shape), indexing="ij"))[::-1]
    centre = (indices * weights).sum((1, 2, 3)) / weights.sum()
    return (mrml.LPS_FROM_RAS @ volume.world_from_index @ [*centre, 1])[:3]
