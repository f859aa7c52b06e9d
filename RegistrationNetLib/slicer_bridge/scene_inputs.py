"""What a registration takes from the scene: nodes, checked, as what travels to the worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..choices import SMALLEST_SIDE_VOX
from ..errors import InputError
from ..io.landmark_matching import matched
from ..io.nrrd import Volume
from .mrml import grid_displacements, labels_of, mask_of, numbered_on, points_of, segment_times, transform_of, volume_of
from .scene_sampling import Node, Steps, displacements


@dataclass(frozen=True)
class Inputs:
    """The nodes of one registration; all but fixed and moving may be None.

    Args:
        fixed, moving: volumes.
        fixed_mask, moving_mask: label maps or segmentations; `…_segment` names one segment, else their union counts.
        fixed_labels, moving_labels: label maps or segmentations, both or neither.
        rigid, keep_volume: label maps or segmentations of fixed, whose labels or segments keep their shape, or their volume.
        fixed_landmarks, moving_landmarks: markups, both or neither; partners by their labels where both have the same, else by order.
            Points that were never placed, or are not selected, do not count.
        initial: transform node; moving placed under it lies about where fixed is.
        previous, previous_inverse: transform nodes of a result of this pair, to go on from.

    Raises:
        InputError: fixed and moving are one node, or what comes in pairs came alone.
    """

    fixed: Node
    moving: Node
    fixed_mask: Node = None
    moving_mask: Node = None
    fixed_mask_segment: str | None = None
    moving_mask_segment: str | None = None
    fixed_labels: Node = None
    moving_labels: Node = None
    fixed_landmarks: Node = None
    moving_landmarks: Node = None
    initial: Node = None
    previous: Node = None
    previous_inverse: Node = None
    rigid: Node = None
    keep_volume: Node = None

    def __post_init__(self) -> None:
        if self.fixed is not None and self.fixed is self.moving:
            raise InputError(
                f"Fixed and moving are the same volume ({self.fixed.GetName()}); registration needs two. Choose another one."
            )
        for side, node in (("fixed", self.fixed), ("moving", self.moving)):
            _check_is_image(node, side)
        for what in ("labels", "landmarks"):
            given = [getattr(self, f"{side}_{what}") is not None for side in ("fixed", "moving")]
            if any(given) and not all(given):
                missing = "moving" if given[0] else "fixed"
                raise InputError(f"The {what} of {missing} are missing; {what} come in pairs. Choose both or neither.")
        parent = None if self.moving is None else self.moving.GetParentTransformNode()
        while parent is not None:
            if parent is self.initial:
                raise InputError(
                    f"Moving lies under {parent.GetName()} already, which is the initial transform too; it would act twice. "
                    "Take moving out of it, or choose no initial transform."
                )
            parent = parent.GetParentTransformNode()

    def nodes(self) -> Iterator[tuple[str, Node]]:
        """Name and node of what was given."""
        for one in fields(self):
            node = getattr(self, one.name)
            if node is not None and not isinstance(node, str):
                yield one.name, node

    def stamp(self) -> tuple[int, ...]:
        """Another one when anything of it has changed; what is read in steps must not change in between."""
        return tuple(time for _, node in self.nodes() for time in _times(node))

    def volumes(self) -> Steps[dict[str, Volume]]:
        """Images, masks and labels by the names that the worker knows, in steps.

        Raises:
            InputError: a node is none of what it should be, or holds nothing.
            GeometryError: a volume's axes span no volume.
        """
        fixed = yield from volume_of(self.fixed, "fixed")
        moving = yield from volume_of(self.moving, "moving")
        found = {"fixed": fixed, "moving": moving}
        if self.fixed_mask is not None:
            found["fixed_mask"] = yield from mask_of(self.fixed_mask, fixed, segment=self.fixed_mask_segment)
        if self.moving_mask is not None:
            found["moving_mask"] = yield from mask_of(self.moving_mask, moving, segment=self.moving_mask_segment)
        if self.fixed_labels is not None:
            labels = yield from labels_of(self.fixed_labels, self.moving_labels, like=(fixed, moving))
            found["fixed_labels"], found["moving_labels"] = labels
        for name in ("rigid", "keep_volume"):
            if (node := getattr(self, name)) is not None:
                found[name] = yield from numbered_on(node, fixed)
        return found

    def landmarks(self) -> Mapping[str, Any]:
        """The landmarks as options of `register`: lists of points, LPS mm, and what each pair is called.

        Raises:
            InputError: not markups, or no pairs.
        """
        if self.fixed_landmarks is None:
            return {}
        fixed = points_of(self.fixed_landmarks, "the fixed landmarks")
        moving = points_of(self.moving_landmarks, "the moving landmarks", without=self.previous)
        pairs = matched(fixed, moving, warn=lambda _: None)
        return {
            "fixed_landmarks": pairs.fixed_mm.tolist(),
            "moving_landmarks": pairs.moving_mm.tolist(),
            "landmark_labels": list(pairs.labels),
        }

    def previous_on(self, fixed: Volume) -> Steps[Mapping[str, Volume]]:
        """The result to go on from, as displacements by the names "previous" and "previous_inverse", in steps.

        Raises:
            InputError: no transform node.
        """
        found: dict[str, Volume] = {}
        for name in ("previous", "previous_inverse"):
            node = getattr(self, name)
            if node is None or not node.IsA("vtkMRMLTransformNode"):
                continue
            held = grid_displacements(node)
            # What is held in another form is asked for at the points of fixed; of an inverse that would tell nothing.
            if held is None and name == "previous":
                held = yield from displacements(node, fixed)
            if held is not None:
                found[name] = held
        return found

    def initial_on(self, fixed: Volume) -> Steps[list[list[float]] | Volume | None]:
        """The initial transform, in steps: a matrix, or displacements on the lattice of fixed."""
        return None if self.initial is None else (yield from transform_of(self.initial, fixed))


def _check_is_image(node: Node, side: str) -> None:
    """Refuse early, with what can be done in Slicer, a volume that is too thin, or that is itself a result of comparing."""
    if node is None or not node.IsA("vtkMRMLVolumeNode") or node.GetImageData() is None:
        return
    if node.GetAttribute("RegistrationNet.Role") in ("jacobian", "difference", "checkerboard"):
        raise InputError(
            f"{side} ({node.GetName()}) is made by a registration and shows no anatomy; an image is needed. Choose another volume."
        )
    size = node.GetImageData().GetDimensions()
    if min(size) < SMALLEST_SIDE_VOX:
        raise InputError(
            f"{side} ({node.GetName()}) is {'×'.join(map(str, size))} voxels; every side needs at least {SMALLEST_SIDE_VOX}. "
            "Choose a volume of more slices. Single slices are registered outside Slicer, by the command registrationnet register."
        )


def _times(node: Node) -> Iterator[int]:
    """When a node, what it holds and the transforms above it were changed last."""
    yield node.GetMTime()
    if node.IsA("vtkMRMLVolumeNode") and node.GetImageData() is not None:
        yield node.GetImageData().GetMTime()
    if node.IsA("vtkMRMLSegmentationNode"):
        yield node.GetSegmentation().GetMTime()
        yield from segment_times(node)
    above = node if node.IsA("vtkMRMLTransformNode") else node.GetParentTransformNode()
    if above is not None:
        yield above.GetTransformToWorldMTime()
