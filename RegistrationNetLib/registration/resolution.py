"""On which lattice the work is done: that of the images where they are small; of large ones the finest that pair and memory allow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..choices import SMALLEST_SIDE_VOX
from ..devices import check_memory, free_mb
from ..errors import InputError
from ..geometry.space import Grid
from ..io.inputs import Pair
from .delivery import lattice_of_inverse
from .method import BLOCKWISE
from .options import Options
from .size import Size, coarser_shape, coarsest_mm

# Images of more voxels are worked on at a resolution at which they have about so many: more cost time and gain little.
WORKING_VOXELS = 8_000_000
# The same where the images are compared block by block.
BLOCKWISE_VOXELS = 22_000_000
# An image that is hardly larger is worked on as it is: resampled to a lattice that is hardly coarser it would only be blurred.
HARDLY_LARGER = 1.3
# By how much coarser a lattice is tried where the memory does not allow one.
COARSER = 1.1
REMEDY = "Crop the images, or resample them to a larger spacing."


@dataclass(frozen=True)
class Resolution:
    """The resolution of the work: no finer than `spacing_mm`, where 0 is that of the images; what it may take; and what is to be said."""

    spacing_mm: float
    size: Size
    needed_mb: float
    warnings: tuple[str, ...] = ()


def resolutions_for(pair: Pair, grids: tuple[Grid, Grid], options: Options) -> dict[str, Resolution]:
    """As `resolution_for`, by the name of the similarity: the usual one, and each that may be chosen when the pair is aligned.

    Raises:
        InputError: a resolution was asked for that is finer than the images, or coarser than what they show.
        ResourceError: the memory is not enough for one of them, not even for the coarsest.
    """
    return {name: resolution_for(pair, grids, one) for name, one in _may_be(options).items()}


def _may_be(options: Options) -> dict[str, Options]:
    """What holds with each similarity that may be chosen, by its name."""
    return {options.measure.name: replace(options, across={})} | dict(options.across)


def wanted_mb(pair: Pair, grids: tuple[Grid, Grid], options: Options) -> float:
    """The memory that the finest resolution takes which the pair needs, whatever is free, with whichever similarity may be chosen.

    Of the images only the type of their voxels counts, and whether there are labels; the lattices are `grids`.

    Raises:
        InputError: as `resolution_for`.
    """
    return max(_wanted(pair, grids, one).needed_mb for one in _may_be(options).values())


def resolution_for(pair: Pair, grids: tuple[Grid, Grid], options: Options) -> Resolution:
    """What was asked for, else the finest resolution that the pair needs and the memory allows, with the similarity of `options`.

    Raises:
        InputError: a resolution was asked for that is finer than the images, or coarser than what they show.
        ResourceError: the memory is not enough, not even for the coarsest.
    """
    measured = _measuring(pair, grids, options)
    wanted, asked = _wanted(pair, grids, options), options.resolution_mm
    if asked is not None:
        check_memory(
            wanted.needed_mb, options.device, f"Give a coarser resolution than {asked:g} mm, or leave it to the program."
        )
        return wanted
    free, found = free_mb(options.device), wanted
    limit_mm = coarsest_mm([max(grid.extent_mm) for grid in grids])
    while found.needed_mb > free:
        coarser_mm = COARSER * (found.spacing_mm or min(min(grid.spacing_mm) for grid in grids))
        if coarser_mm > limit_mm:
            check_memory(found.needed_mb, options.device, REMEDY)
        found = measured(coarser_mm)
    if found is wanted:
        return found
    told = (
        f"The memory that is free ({free / 1024:.1f} GB) allows a resolution of {found.spacing_mm:.3g} mm only; the best for this pair "
        f"takes {wanted.needed_mb / 1024:.1f} GB. Fine detail may fit less well."
    )
    return replace(found, warnings=(told,))


def _wanted(pair: Pair, grids: tuple[Grid, Grid], options: Options) -> Resolution:
    """What was asked for, else the finest resolution that the pair needs, whatever the memory allows."""
    measured = _measuring(pair, grids, options)
    if options.resolution_mm is not None:
        _check(options.resolution_mm, grids)
        return measured(options.resolution_mm)
    return measured(_wanted_mm(grids, BLOCKWISE_VOXELS if _is_blockwise(options) else WORKING_VOXELS))


def _measuring(pair: Pair, grids: tuple[Grid, Grid], options: Options) -> Callable[[float], Resolution]:
    """What a resolution takes."""
    labels = 0 if pair.labels[0] is None or not options.method.uses_labels else 1

    def measured(spacing_mm: float) -> Resolution:
        fixed, moving = (
            grid.resized(coarser_shape(grid.shape, grid.spacing_mm, spacing_mm)) if spacing_mm else grid for grid in grids
        )
        held = fixed.resized(options.method.held_shape(options.card, options.refine, fixed.shape))
        inverse = lattice_of_inverse(grids[1], held)
        size = Size(
            fixed.shape, inverse.shape, options.card, options.refine, on_graphics=options.device.type == "cuda",
            moving=moving.shape, image_voxels=math.prod(grids[0].shape),
            pixel_bytes=pair.moving.GetSizeOfPixelComponent(), labels=labels, measure=options.measure.name,
            is_whole=options.conserve_mass,
        )  # fmt: skip
        return Resolution(spacing_mm, size, options.method.memory_mb(size))

    return measured


def _is_blockwise(options: Options) -> bool:
    """Whether all of the field is found block by block, but for labels, which take little."""
    is_field = options.method.works_blockwise and options.refine == "field"
    is_local = options.measure.name in BLOCKWISE and not options.conserve_mass
    return is_field and is_local and options.device.type == "cpu"


def _wanted_mm(grids: tuple[Grid, Grid], most_voxels: int) -> float:
    """The finest spacing at which neither image has more than `most_voxels`; 0 where they have hardly more as they are."""
    if all(math.prod(grid.shape) <= HARDLY_LARGER * most_voxels for grid in grids):
        return 0.0
    spacing_mm = min(min(grid.spacing_mm) for grid in grids)
    while any(math.prod(coarser_shape(grid.shape, grid.spacing_mm, spacing_mm)) > most_voxels for grid in grids):
        spacing_mm *= 1.01
    return spacing_mm


def _check(asked_mm: float, grids: tuple[Grid, Grid]) -> None:
    finest_mm = min(min(grid.spacing_mm) for grid in grids)
    coarsest_mm = min(max(grid.extent_mm) for grid in grids) / SMALLEST_SIDE_VOX
    if finest_mm * (1 - 1e-6) <= asked_mm <= coarsest_mm:
        return
    raise InputError(
        f"The resolution must lie between that of the images and an eighth of what they show: {finest_mm:.3g} to {coarsest_mm:.3g} mm. "
        f"It is {asked_mm:g} mm. Choose another, or leave it out."
    )
