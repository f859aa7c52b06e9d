"""What a registration would do, and what that takes, told before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..devices import free_mb
from ..geometry.space import grid_of
from ..io.image_sources import ImageLike
from ..models.weights import weights_state
from .options import Options
from .request import checked_request
from .resolution import resolutions_for
from .solving import stage_seconds


@dataclass(frozen=True)
class Forecast:
    """What would be done with a pair.

    Attributes:
        fixed, moving: `size` in voxels, `spacing_mm` and `modality`.
        similarity: the name of the measure, as things look now; `across_contrasts` are those that may take its place once the images
            are aligned and turn out to have two contrasts.
        align: the stages of the alignment.
        weights: "none needed", "ready", "missing" or "damaged".
        resolution_mm: the finest spacing of the work.
        memory_mb, free_mb: what the registration takes, with whichever similarity, and what is free.
        seconds: about, measured on two cores; None on a GPU, of which nothing was measured.
        warnings: what was read with a doubt, or is done otherwise than would be best.
    """

    fixed: Mapping[str, Any]
    moving: Mapping[str, Any]
    model: str
    title: str
    refine: str
    steps: int
    similarity: str
    across_contrasts: tuple[str, ...]
    align: tuple[str, ...]
    repeats: int
    device: str
    weights: str
    resolution_mm: float
    memory_mb: float
    free_mb: float
    seconds: float | None
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def forecast(fixed: ImageLike, moving: ImageLike, **options: Any) -> Forecast:
    """What `register` would do with the same images, masks, labels and options; both images are read and checked, nothing is computed.

    Raises:
        InputError, ResourceError: as `register` would, before it begins.
    """
    warnings: list[str] = []
    request = checked_request(fixed, moving, options, warnings.append)
    asked, pair = request.options, request.pair
    resolutions = resolutions_for(pair, (grid_of(pair.fixed), grid_of(pair.moving)), asked)
    first = resolutions[asked.measure.name]
    finest = min(min(grid_of(image).spacing_mm) for image in pair.images)
    told = [
        {"size": image.GetSize(), "spacing_mm": image.GetSpacing(), "modality": modality}
        for image, modality in zip(pair.images, pair.modalities, strict=True)
    ]
    return Forecast(
        fixed=told[0],
        moving=told[1],
        model=asked.card.name,
        title=asked.card.title,
        refine=asked.refine,
        steps=asked.steps,
        similarity=asked.measure.name,
        across_contrasts=tuple(name for name in asked.across if name != asked.measure.name),
        align=asked.align,
        repeats=asked.repeats,
        device=str(asked.device),
        weights=_weights(asked),
        resolution_mm=max(first.spacing_mm, finest),
        memory_mb=max(one.needed_mb for one in resolutions.values()),
        free_mb=free_mb(asked.device),
        seconds=sum(stage_seconds(first.size, asked).values()) if asked.device.type == "cpu" else None,
        warnings=(*warnings, *first.warnings),
    )


def _weights(options: Options) -> str:
    return "ready" if options.weights is not None and options.weights.is_file() else weights_state(options.card).kind
