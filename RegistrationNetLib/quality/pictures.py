"""Pictures of a result: each image sampled straight onto the slices of `views`, with the patient's directions on them."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..geometry.space import Grid, grid_of, points_of_transform, resampled
from .colours import FOLDED, Bytes, difference_colour, error_colour, error_top_mm, jacobian_colour
from .slices import View, centre_of_foreground_mm, views, worst_fold_mm

Array = NDArray[np.float64]
Plane = NDArray[np.float32]

LINES_ACROSS = 20
TILES_ACROSS = 8
GRID_COLOUR = (60, 230, 220)
# What is left of a colour over black tissue; over white tissue it is whole.
DARKEST_TINT = 0.3


class Result(Protocol):
    """What is drawn: images and the transform of one registration; `warped`, `jacobian`, `error_mm` on the grid of `fixed`."""

    @property
    def fixed(self) -> sitk.Image:
        """The fixed image."""

    @property
    def moving(self) -> sitk.Image:
        """The moving image."""

    @property
    def warped(self) -> sitk.Image:
        """Moving on the grid of fixed."""

    @property
    def jacobian(self) -> sitk.Image:
        """Determinant of the Jacobian of the transform, on the grid of fixed."""

    @property
    def error_mm(self) -> sitk.Image:
        """The expected error in mm, on the grid of fixed."""

    @property
    def body(self) -> sitk.Image:
        """1 where fixed shows a body, else 0; on any grid over fixed."""

    @property
    def moving_from_fixed(self) -> sitk.Transform:
        """The transform: points of fixed → points of moving, LPS mm."""


@dataclass(frozen=True)
class Panel:
    """One kind of picture in every view; `pixels` are [rows, columns, 3]. `over` names the plain panel that it colours."""

    name: str
    title: str
    caption: str
    views: tuple[View, ...]
    pixels: tuple[Bytes, ...]
    over: str = ""

    def pngs(self) -> list[bytes]:
        """Each slice as a PNG file with its letters."""
        return [png(lettered(pixels, view)) for pixels, view in zip(self.pixels, self.views, strict=True)]


def panels(result: Result) -> dict[str, Panel]:
    """All pictures of a result by name, in the order in which they are read."""
    windows = window_of(result.fixed), window_of(result.moving)
    where = centre_of_foreground_mm(result.fixed)
    cuts = [_cut(result, view, windows) for view in views(result.fixed, where)]
    drawn = [*_plain(cuts, where), *_compared(cuts), _expected_error(cuts, result), _jacobian(cuts)]
    if sitk.GetArrayViewFromImage(result.jacobian).min() <= 0:
        at_fold = [_cut(result, view, windows) for view in views(result.fixed, worst_fold_mm(result.jacobian))]
        drawn += _worst_fold(at_fold)
    drawn.append(_deformed_grid(cuts, result.moving_from_fixed))
    return {panel.name: panel for panel in drawn}


def window_of(image: sitk.Image) -> tuple[float, float]:
    """The intensities shown as black and white: percentiles 0.5 and 99.5 of about a million voxels."""
    values = sitk.GetArrayViewFromImage(image)
    stride = max(1, round((values.size / 1e6) ** (1 / values.ndim)))
    lower, upper = np.percentile(values[(slice(None, None, stride),) * values.ndim], [0.5, 99.5])
    return (float(lower), float(upper)) if upper > lower else (float(values.min()), max(float(values.max()), float(lower) + 1))


def windowed(image: sitk.Image, window: tuple[float, float], view: View) -> Plane:
    """Intensities in a slice, 0 at the lower end of the window and outside the image, 1 at the upper: [rows, columns]."""
    lower, upper = window
    fine = _sampled(image, view, outside=lower)
    shown: Plane = ((fine.mean(axis=(1, 3)) - lower) / (upper - lower)).clip(0, 1)
    return shown


def jacobian_legend() -> bytes:
    """The determinant's colours with their values, as a PNG file."""
    width, height, margin, patch = 480, 64, 26, 46
    steps = np.linspace(-1, 1, width - 3 * margin - patch)
    bar = jacobian_colour(4.0**steps)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[8:30, margin : margin + patch] = FOLDED
    start = 2 * margin + patch
    canvas[8:30, start : start + len(steps)] = bar
    labels = [(margin + patch / 2, "folded")]
    labels += [(start + (math.log(value, 4) + 1) / 2 * len(steps), f"{value:g}") for value in (0.25, 0.5, 1, 2, 4)]
    words = [(start + len(steps) * share, word) for share, word in ((0.14, "shrinks"), (0.5, "same volume"), (0.86, "grows"))]
    return png(_written(canvas, [(x, 38, text) for x, text in labels] + [(x, 54, text) for x, text in words], size=12))


def difference_legend() -> bytes:
    """The colours of a difference with their meaning, as a PNG file."""
    width, height, margin = 480, 48, 70
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[8:28, margin:-margin] = difference_colour(np.linspace(-1, 1, width - 2 * margin))
    words = ((margin, "fixed brighter"), (width / 2, "equal"), (width - margin, "moving brighter"))
    return png(_written(canvas, [(x, 38, text) for x, text in words], size=12))


@dataclass(frozen=True)
class _Cut:
    """What lies in one slice: brightness from 0 to 1 of the three images, the determinant, and where the body is, each [rows, columns]."""

    view: View
    fixed: Plane
    moving: Plane
    warped: Plane
    determinant: Plane
    body: NDArray[np.bool_]


def _cut(result: Result, view: View, windows: tuple[tuple[float, float], tuple[float, float]]) -> _Cut:
    """One slice; `windows` are those of fixed and of moving, which serves the warped image too."""
    return _Cut(
        view,
        fixed=windowed(result.fixed, windows[0], view),
        moving=windowed(result.moving, windows[1], view),
        warped=windowed(result.warped, windows[1], view),
        determinant=_determinant(result.jacobian, view),
        body=within(result.body, view),
    )


def _panel(cuts: Sequence[_Cut], name: str, title: str, caption: str, draw: Callable[[_Cut], Bytes], *, over: str = "") -> Panel:
    return Panel(name, title, caption, tuple(cut.view for cut in cuts), tuple(draw(cut) for cut in cuts), over)


def _plain(cuts: Sequence[_Cut], where: Array) -> list[Panel]:
    place = ", ".join(f"{value:.0f}" for value in where)
    through = f"Through the centre of the bright tissue, ({place}) mm LPS, along the axes of fixed." if len(where) == 3 else ""
    before = "As it lies in the world before registration, at the same place."
    after = "At the same place. It should look like fixed."
    return [
        _panel(cuts, "fixed", "Fixed", through, lambda cut: grey(cut.fixed)),
        _panel(cuts, "moving", "Moving, before", before, lambda cut: grey(cut.moving)),
        _panel(cuts, "warped", "Moving, after (warped)", after, lambda cut: grey(cut.warped)),
    ]


def _compared(cuts: Sequence[_Cut]) -> list[Panel]:
    tile = max(1, max(cuts[0].view.shape) // TILES_ACROSS)
    board = "Squares of fixed and of moving in turn. Edges should run on across the squares."
    difference = (
        "Moving minus fixed, each scaled by its own window. Black is equal; orange, moving is brighter; blue, fixed is brighter. "
        "Between scans of different contrast colours remain even where the anatomy coincides."
    )
    after = "The same after registration."
    return [
        _panel(
            cuts, "checkerboard_before", "Checkerboard, before", board, lambda cut: grey(_checkered(cut.fixed, cut.moving, tile))
        ),
        _panel(
            cuts, "checkerboard_after", "Checkerboard, after", after, lambda cut: grey(_checkered(cut.fixed, cut.warped, tile))
        ),
        _panel(
            cuts, "difference_before", "Difference, before", difference, lambda cut: difference_colour(cut.moving - cut.fixed)
        ),
        _panel(cuts, "difference_after", "Difference, after", after, lambda cut: difference_colour(cut.warped - cut.fixed)),
    ]


def _expected_error(cuts: Sequence[_Cut], result: Result) -> Panel:
    voxel_mm = largest_edge_mm(result)
    caption = f"Fixed, coloured where in the body an error of more than a voxel ({voxel_mm:.2g} mm) is expected."

    def draw(cut: _Cut) -> Bytes:
        return error_over_fixed(result, cut.fixed, cut.view)

    return _panel(cuts, "error", "Expected error", caption, draw)


def largest_edge_mm(result: Result) -> float:
    """Of fixed's voxels: an error below it is none that shows."""
    return max(grid_of(result.fixed).spacing_mm)


def error_over_fixed(result: Result, brightness: Plane, view: View) -> Bytes:
    """A slice of fixed, brightness from 0 to 1, coloured where in the body more than a voxel of error is expected: [rows, columns, 3]."""
    error_mm = sampled(result.error_mm, view) * within(result.body, view)
    colour, weight = error_colour(error_mm, largest_edge_mm(result))
    grey = 255.0 * brightness[..., None]
    pixels: Bytes = ((1 - weight[..., None]) * grey + weight[..., None] * colour).round().astype(np.uint8)
    return pixels


def sampled(image: sitk.Image, view: View) -> Plane:
    """Values of an image in a slice, 0 outside it: [rows, columns]."""
    plane: Plane = _sampled(image, view, outside=0.0).mean(axis=(1, 3))
    return plane


def within(body: sitk.Image, view: View) -> NDArray[np.bool_]:
    """Where a slice shows the body, [rows, columns]: colours of the air around it would be those of noise."""
    return sampled(sitk.Cast(body, sitk.sitkFloat32), view) >= 0.5


def error_legend(voxel_mm: float) -> bytes:
    """The colours of the expected error with their values, as a PNG file."""
    width, height, margin = 480, 48, 40
    top_mm = error_top_mm(voxel_mm)
    millimetres = voxel_mm * (top_mm / voxel_mm) ** np.linspace(0.001, 1, width - 2 * margin)
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    canvas[8:28, margin:-margin] = error_colour(millimetres, voxel_mm)[0]
    texts = []
    for value in (voxel_mm, *(one for one in (2.0, 5.0, 10.0, 20.0) if 1.3 * voxel_mm < one <= top_mm)):
        share = math.log(value / voxel_mm) / math.log(top_mm / voxel_mm)
        texts.append((margin + share * (width - 2 * margin), 38.0, f"{value:.2g} mm"))
    return png(_written(canvas, texts, size=12))


def _jacobian(cuts: Sequence[_Cut]) -> Panel:
    caption = (
        "Blue: the tissue is smaller in moving than in fixed; red: larger; grey: unchanged; yellow: the map folds. "
        "Only the body is coloured. Light and dark are those of fixed."
    )
    return _panel(cuts, "jacobian", "Volume change (Jacobian determinant)", caption, _tinted, over="fixed")


def _worst_fold(cuts: Sequence[_Cut]) -> list[Panel]:
    caption = "The same slices through the voxel with the smallest determinant."
    beneath = _panel(cuts, "fixed_at_fold", "Fixed at the worst fold", caption, lambda cut: grey(cut.fixed))
    return [beneath, _panel(cuts, "jacobian_at_fold", "Where it folds most", caption, _tinted, over=beneath.name)]


def _deformed_grid(cuts: Sequence[_Cut], moving_from_fixed: sitk.Transform) -> Panel:
    longest_px = max(max(cut.view.shape) for cut in cuts)
    step_mm = _round_length(longest_px * cuts[0].view.grid.spacing_mm[-1] / LINES_ACROSS)
    caption = (
        f"Straight lines every {step_mm:g} mm, drawn on moving and bent with it into fixed, over the warped image. "
        "Movement through the slice does not show. Lines must not cross themselves."
    )
    return _panel(
        cuts,
        "deformed_grid",
        "Deformed grid",
        caption,
        lambda cut: _ruled(grey(cut.warped), _lines(moving_from_fixed, cut.view, step_mm)),
    )


def grey(brightness: Plane) -> Bytes:
    """A slice, brightness from 0 to 1, without colour: [rows, columns, 3]."""
    return np.repeat((255 * brightness).round().astype(np.uint8)[..., None], 3, axis=-1)


def _sampled(image: sitk.Image, view: View, *, outside: float, nearest: bool = False) -> Plane:
    """`image` at the pixels of a slice, each cut so finely that no voxel is skipped: [rows, parts, columns, parts]."""
    rows, columns = view.shape
    parts = max(1, math.ceil(view.grid.spacing_mm[-1] / min(grid_of(image).spacing_mm) - 0.01))
    fine = view.grid.resized((*view.grid.shape[:-2], rows * parts, columns * parts))
    values: Plane = resampled(image, fine, nearest=nearest, outside=outside).numpy()
    return values.reshape(rows, parts, columns, parts)


def _tinted(cut: _Cut) -> Bytes:
    """Fixed in the colours of the determinant, within the body; folded pixels wholly in theirs, wherever they are."""
    brightness = cut.fixed[..., None]
    tint = jacobian_colour(cut.determinant) * (DARKEST_TINT + (1 - DARKEST_TINT) * brightness)
    tint = np.where(cut.body[..., None], tint, 255.0 * brightness)
    pixels: Bytes = np.where((cut.determinant <= 0)[..., None], FOLDED, tint).round().astype(np.uint8)
    return pixels


def _determinant(jacobian: sitk.Image, view: View) -> Plane:
    """The determinant in a slice, [rows, columns]; a folded voxel smaller than a pixel still folds it."""
    fine = _sampled(jacobian, view, outside=1.0, nearest=True)
    smallest = fine.min(axis=(1, 3))
    return np.where(smallest <= 0, smallest, fine.mean(axis=(1, 3)))


def _lines(transform: sitk.Transform, view: View, step_mm: float) -> Plane:
    """How much of each pixel is covered by lines of moving's world, `step_mm` apart along the axes of the view."""
    dim = view.grid.dim
    # A lattice whose unit cube is the world itself, in x, y, z.
    world = Grid((2,) * dim, np.eye(dim + 1))
    mapped = points_of_transform(transform, view.grid, world)[0].reshape(dim, *view.shape).numpy()
    middle = view.grid.centre_mm
    cover = np.zeros(view.shape, dtype=np.float32)
    for axis in view.axes:
        count = np.tensordot(axis, mapped - middle.reshape(dim, 1, 1), axes=1) / step_mm
        per_pixel = np.linalg.norm(np.stack(np.gradient(count)), axis=0).clip(min=1e-6)
        cover = np.maximum(cover, (1.1 - np.abs(count - np.round(count)) / per_pixel).clip(0, 1))
    return cover


def _ruled(grey: Bytes, cover: Plane) -> Bytes:
    """Lines over a darkened picture."""
    pixels: Bytes = (0.7 * grey * (1 - cover[..., None]) + np.array(GRID_COLOUR) * cover[..., None]).round().astype(np.uint8)
    return pixels


def _checkered(one: Plane, other: Plane, tile: int) -> Plane:
    rows, columns = np.indices(one.shape) // tile
    board: Plane = np.where((rows + columns) % 2 == 0, one, other)
    return board


def _round_length(length_mm: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, 50 and so on."""
    power = math.floor(math.log10(length_mm))
    candidates = [digit * 10.0**exponent for exponent, digit in itertools.product((power, power + 1), (1, 2, 5))]
    return min(candidates, key=lambda candidate: abs(math.log(candidate / length_mm)))


def lettered(pixels: Bytes, view: View) -> Bytes:
    """A slice, [rows, columns, 3], with the patient's directions at its edges."""
    rows, columns = view.shape
    places = [
        (4 + 4 * len(view.left), rows / 2, view.left),
        (columns - 4 - 4 * len(view.right), rows / 2, view.right),
        (columns / 2, 9, view.top),
        (columns / 2, rows - 10, view.bottom),
    ]
    return _written(pixels, places, size=14)


def _written(pixels: Bytes, texts: Sequence[tuple[float, float, str]], *, size: int) -> Bytes:
    """White words with a black rim, centred at (column, row)."""
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size)
    for column, row, text in texts:
        draw.text((column, row), text, fill=(255, 255, 255), stroke_fill=(0, 0, 0), stroke_width=1, font=font, anchor="mm")
    return np.asarray(picture)


def png(pixels: Bytes) -> bytes:
    """Pixels [rows, columns, 3] as a PNG file."""
    is_grey = bool((pixels == pixels[..., :1]).all())
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if is_grey else pixels).save(buffer, format="png")
    return buffer.getvalue()
