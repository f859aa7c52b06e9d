"""What the panel says before a run: what is missing, what does not go together, and what will not fit into the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from slicer.i18n import tr as _

from ..choices import SMALLEST_SIDE_VOX
from ..models.catalogue import card_named
from ..registration.methods import METHODS
from ..registration.size import Size, coarser_shape, coarsest_mm, delivered_shape, inverse_shape
from .logic import REFINEMENTS
from .panel_devices import DevicePanel
from .panel_models import ModelPanel
from .panel_segments import SIDES, SegmentPanel
from .panel_words import gigabytes
from .scene_sequences import sequence_shown_by

Card = Mapping[str, Any]


def refinement_of(node: Any, card: Card) -> str:
    """What is refined: what was chosen, or what the network's card says."""
    if node.hasOwnSteps and node.steps == 0:
        return "none"
    return REFINEMENTS[node.refinement] or str(card["refine"]["default"])


def what_is_missing(node: Any, models: ModelPanel, segments: SegmentPanel) -> str:
    """What the user must do before the run can start, "" where nothing is missing."""
    return (
        _about_volumes(node) or _about_model(node, models) or _about_masks(node, models.card, segments) or _about_landmarks(node)
    )


def what_several_miss(node: Any, models: ModelPanel, segments: SegmentPanel) -> str:
    """What the user must do before the volumes of a folder can be registered, "" where only the folder may be missing."""
    if node.fixedVolume is None:
        return _("Choose a fixed volume above; the volumes of the folder are registered to it.")
    if words := _about_model(node, models) or _about_lost_segment(node, segments, sides=("fixed",)):
        return words
    return _about_a_mask_of_each(models)


def about_frame(node: Any) -> str:
    """That a chosen volume shows one frame of a sequence, which is what is registered; "" where none does."""
    for volume in (node.fixedVolume, node.movingVolume):
        if (sequence := sequence_shown_by(volume)) is not None:
            return _(
                "{volume} shows one frame of “{sequence}”; Register takes this frame alone. All frames: Apply to several."
            ).format(volume=volume.GetName(), sequence=sequence.GetName())
    return ""


def frames_miss(node: Any, models: ModelPanel) -> str:
    """What the user must do before the frames of a sequence can be registered, "" where nothing is missing."""
    return _about_model(node, models) or _about_a_mask_of_each(models)


def _about_a_mask_of_each(models: ModelPanel) -> str:
    if models.card["prepare"]["mask"] != "required":
        return ""
    return _("{title} needs a mask of each volume, which folders and sequences do not bring. Choose another network.").format(
        title=models.card["title"]
    )


def not_for_several(node: Any) -> str:
    """What of the choices belongs to one moving volume, so that the volumes of a folder are registered without; "" for nothing."""
    chosen = {
        _("mask of moving"): node.movingMask,
        _("labels"): node.movingLabels,
        _("landmarks"): node.movingLandmarks,
        _("initial transform"): node.initialTransform,
    }
    names = [name for name, one in chosen.items() if one is not None]
    return _("Without: {names}, as these belong to one volume.").format(names=", ".join(names)) if names else ""


def _about_volumes(node: Any) -> str:
    if node.fixedVolume is None or node.movingVolume is None:
        return _("Choose a fixed and a moving volume.")
    if node.fixedVolume is node.movingVolume:
        return _("Fixed and moving are the same volume. Choose two.")
    for volume in (node.fixedVolume, node.movingVolume):
        image = volume.GetImageData()
        if image is not None and min(image.GetDimensions()) < SMALLEST_SIDE_VOX:
            return _("{volume} has fewer than {number} voxels along a side. Choose a volume of more slices.").format(
                volume=volume.GetName(), number=SMALLEST_SIDE_VOX
            )
        if volume is node.outputVolume:
            return _("The warped volume would be written over {volume}. Choose another under Outputs.").format(
                volume=volume.GetName()
            )
    return ""


def _about_model(node: Any, models: ModelPanel) -> str:
    card = models.card
    if models.is_fetching:
        return _("The weights of {title} are on their way.").format(title=card["title"])
    if not models.is_ready:
        return _("The weights of {title} are not here. Get them above, or choose a network that is ready.").format(
            title=card["title"]
        )
    if refinement_of(node, card) not in ("none", *METHODS[card["method"]].refinements):
        return _("{title} has nothing of that kind to refine. Choose another refinement.").format(title=card["title"])
    return ""


def _about_lost_segment(node: Any, segments: SegmentPanel, *, sides: Sequence[str] = SIDES) -> str:
    lost = [side for side in segments.lost if side in sides]
    if not lost:
        return ""
    return _("{mask} has lost the segment that was chosen. Choose another under Masks, labels, landmarks.").format(
        mask=getattr(node, f"{lost[0]}Mask").GetName()
    )


def _about_masks(node: Any, card: Card, segments: SegmentPanel) -> str:
    if words := _about_lost_segment(node, segments):
        return words
    if card["prepare"]["mask"] == "required" and None in (node.fixedMask, node.movingMask):
        return _("{title} needs a mask of each volume. Choose them under Masks, labels, landmarks.").format(title=card["title"])
    return ""


def _about_landmarks(node: Any) -> str:
    if node.landmarks == "pull" and None in (node.fixedLandmarks, node.movingLandmarks):
        return _("Landmarks are to bring the volumes together. Choose those of both under Masks, labels, landmarks.")
    return ""


def memory_warning(node: Any, card: Card, devices: DevicePanel) -> str:
    """What to say of a run that will not fit, "" where it will, or nothing is known."""
    is_on_graphics = devices.meant(node.device).startswith("cuda")
    needed = _needed_mb(node, card, is_on_graphics=is_on_graphics)
    free = devices.free_mb(node.device)
    if free is None or needed <= free:
        return ""
    return _(
        "This needs about {needed} of memory; {device} has {free} free. Crop the volumes, or choose another network or refinement."
    ).format(needed=gigabytes(needed), device=devices.words_for(node.device), free=gigabytes(free))


def _needed_mb(node: Any, card: Card, *, is_on_graphics: bool) -> float:
    """About the memory of a run as chosen, or else at the coarsest resolution that it takes by itself; 0 while a volume has no voxels."""
    volumes = (node.fixedVolume, node.movingVolume)
    images = [volume.GetImageData() for volume in volumes]
    if None in images:
        return 0.0
    shapes, spacings = [image.GetDimensions() for image in images], [volume.GetSpacing() for volume in volumes]
    extents = [max(size * step for size, step in zip(*one, strict=True)) for one in zip(shapes, spacings, strict=True)]
    coarser_mm = node.resolution or coarsest_mm(extents)
    fixed, moving = (coarser_shape(*one, coarser_mm) for one in zip(shapes, spacings, strict=True))
    method, own, refine = METHODS[card["method"]], card_named(card["name"]), refinement_of(node, card)
    held = method.held_shape(own, refine, fixed)
    spacing_mm = [step * old / new for step, old, new in zip(spacings[0], shapes[0], held, strict=True)]
    size = Size(
        fixed, delivered_shape(inverse_shape(shapes[1], spacings[1], spacing_mm)), own,
        refine, on_graphics=is_on_graphics, moving=moving, image_voxels=math.prod(shapes[0]),
        pixel_bytes=images[1].GetScalarSize(),
    )  # fmt: skip
    return method.memory_mb(size)
