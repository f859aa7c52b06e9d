"""Maps of the unit cube: affine, displacement field, velocity field, composition; sampling, inversion, Jacobian.

Coordinates lie in [0, 1] per array axis, 0 the centre of the first voxel and 1 the centre of the last; channel d of a point
is its coordinate along array axis d (so D, H, W in 3-D). Points come as `[B, dim, *any]`, images as `[B, C, *shape]`.
Every map can be evaluated at any points, on or off a grid, and is differentiable in points and parameters.
This file, `trilinear.py` and `space.py` are the only ones that know about the axis order of `grid_sample`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import without_mps
from ..memory import full_precision
from .trilinear import WORTH_LAYERS, WORTH_LAYERS_ROUNDED, SampledByLayers, pulled_back, with_slopes

Outside = Literal["border", "zeros"]

# Points that a flow is squared at a time where no gradient is asked for.
POINTS_AT_A_TIME = 2**15

# An inversion ends when the mean residual has not come below this fraction within so many iterations.
STALL_ITERATIONS, STALLED = 4, 0.9


class Map(Protocol):
    """A map from points of the unit cube `[B, dim, *any]` to points of another."""

    def __call__(self, points: Tensor) -> Tensor: ...


def identity_points(shape: Sequence[int], like: Tensor) -> Tensor:
    """The lattice of voxel centres as points `[1, dim, *shape]`, with dtype and device of `like`."""
    axes = [torch.linspace(0, 1, size, dtype=like.dtype, device=like.device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def sample(image: Tensor, points: Tensor, *, outside: Outside = "border", nearest: bool = False, rounded: bool = False) -> Tensor:
    """Values of `image` [B, C, *shape] at `points` [B, dim, *out], by (multi-)linear interpolation: [B, C, *out].

    Outside the cube the value is that of the nearest border point, or zero (falling linearly over one voxel). A batch of 1,
    of the image or of the points, serves every entry of the other. `nearest` has no gradient in the points. `rounded` allows to
    move a point by 0.000125 voxels, which makes volumes twice as fast on the CPU; not for differences of neighbouring points.
    """
    dim, out = points.shape[1], points.shape[2:]
    assert image.dim() == dim + 2, "points and image differ in dimension"
    batch = max(image.shape[0], points.shape[0])
    assert {image.shape[0], points.shape[0]} <= {1, batch}, "points and image differ in batch"
    image, points = image.expand(batch, *image.shape[1:]), points.expand(batch, *points.shape[1:])
    if nearest or not _is_for_layers(image, points, rounded=rounded):
        return _sampled_on_lattice(image, points, outside, nearest)
    flat = points.flatten(2)
    if outside == "zeros":
        image, flat = _with_zeros_around(image, flat)
    values: Tensor = SampledByLayers.apply(image, flat, rounded)  # type: ignore[no-untyped-call]
    return values.unflatten(2, out)


def sample_pulled_back(image: Tensor, points: Tensor, upstream: Tensor, outside: Outside = "border") -> Tensor:
    """The gradient of `sample(image, points)` with respect to the points [1, dim, *out], from that with respect to its values."""
    if outside == "border" and _is_for_layers(image, points):
        _, by_points = pulled_back(image, points.flatten(2), upstream.flatten(2), (False, True))
        assert by_points is not None
        return by_points.view_as(points)
    with torch.enable_grad():
        places = points.detach().requires_grad_()
        return torch.autograd.grad(sample(image, places, outside=outside), places, upstream)[0]


def sample_with_slopes(image: Tensor, points: Tensor, outside: Outside = "border") -> tuple[Tensor, Tensor]:
    """`sample(image, points)` of one image [1, 1, *shape], and its derivatives by the points [1, dim, *out]: [1, dim, *out]."""
    assert image.shape[:2] == (1, 1), "one image of one channel"
    if outside == "border" and _is_for_layers(image, points):
        values, slopes = with_slopes(image, points.flatten(2))
        return values.view(1, 1, *points.shape[2:]), slopes.view_as(points)
    with torch.enable_grad():
        places = points.detach().requires_grad_()
        values = sample(image, places, outside=outside)
        (by_points,) = torch.autograd.grad(values.sum(), places)
    return values.detach(), by_points


def _is_for_layers(image: Tensor, points: Tensor, *, rounded: bool = False) -> bool:
    is_volume = image.dim() == 5 and min(image.shape[2:]) > 1
    worth = WORTH_LAYERS_ROUNDED if rounded else WORTH_LAYERS
    return is_volume and image.device.type == "cpu" and points[0, 0].numel() >= worth


def _with_zeros_around(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The image with one more voxel of zeros on each side, and the points [B, dim, P] in its own unit cube."""
    size = points.new_tensor(image.shape[2:]).view(1, -1, 1)
    return F.pad(image, (1, 1) * (image.dim() - 2)), (points * (size - 1) + 1) / (size + 1)


def _sampled_on_lattice(image: Tensor, points: Tensor, outside: Outside, nearest: bool) -> Tensor:
    batch, dim, *out = points.shape
    lattice = 2 * points.reshape(batch, dim, *_as_lattice(out, dim)).flip(1) - 1
    lattice = lattice.movedim(1, -1)
    parts = _parts_for_threads(lattice)
    if parts > 1:
        lattice, padding = _split_first_axis(lattice, parts)
        values = _grid_sample(image.expand(parts, *image.shape[1:]), lattice, outside, nearest)
        values = values.transpose(0, 1).reshape(1, image.shape[1], -1, *values.shape[3:])
        values = values[:, :, : values.shape[2] - padding]
    else:
        values = _grid_sample(image, lattice, outside, nearest)
    return values.reshape(batch, image.shape[1], *out).to(points.device)


def _grid_sample(image: Tensor, lattice: Tensor, outside: Outside, nearest: bool) -> Tensor:
    if nearest:  # which Apple's GPU does not do in three dimensions
        image, lattice = without_mps(image), without_mps(lattice)
    mode = "nearest" if nearest else "bilinear"
    return F.grid_sample(image, lattice, mode=mode, padding_mode=outside, align_corners=True)


def _as_lattice(out: Sequence[int], dim: int) -> tuple[int, ...]:
    """`out` itself where it has the image's dimension, else its points in a row, as grid_sample wants them."""
    return tuple(out) if len(out) == dim else (math.prod(out), *(1,) * (dim - 1))


def _parts_for_threads(lattice: Tensor) -> int:
    """On the CPU grid_sample gives each batch entry to one thread; a single large one is cut along its first axis."""
    if lattice.device.type != "cpu" or lattice.shape[0] > 1 or lattice.numel() < 60_000:
        return 1
    return min(torch.get_num_threads(), lattice.shape[1])


def _split_first_axis(lattice: Tensor, parts: int) -> tuple[Tensor, int]:
    padding = -lattice.shape[1] % parts
    if padding:
        lattice = torch.cat([lattice, lattice[:, -1:].expand(-1, padding, *lattice.shape[2:])], dim=1)
    return lattice.reshape(parts, -1, *lattice.shape[2:]), padding


@dataclass(frozen=True, eq=False)
class Affine:
    """x ↦ A x + b; `matrix` is [dim, dim + 1], the last column being b, or [B, dim, dim + 1], one for each entry of the batch."""

    matrix: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        dim = points.shape[1]
        flat = points.reshape(points.shape[0], dim, -1)
        with full_precision(points.device):
            moved = self.matrix[..., :dim] @ flat + self.matrix[..., dim:]
        return moved.reshape(-1, *points.shape[1:])

    def inverse(self) -> Affine:
        """The affine map back; `torch.linalg.LinAlgError` where the matrix is singular."""
        dim = self.matrix.shape[-2]
        inverted = torch.linalg.inv(self.matrix[..., :dim])
        return Affine(torch.cat([inverted, -inverted @ self.matrix[..., dim:]], dim=-1))


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """x ↦ x + u(x); `displacement` u is [B, dim, *shape] in unit-cube coordinates, linear between its lattice points.

    Outside the cube the displacement of the nearest border point holds.
    """

    displacement: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return points + sample(self.displacement, points)

    def on_lattice(self) -> Tensor:
        """The mapped lattice points [B, dim, *shape], without sampling."""
        return identity_points(self.displacement.shape[2:], self.displacement) + self.displacement


@dataclass(frozen=True, eq=False)
class VelocityField:
    """x ↦ exp(v)(x), the flow of the stationary velocity v [B, dim, *shape] over unit time, by scaling and squaring.

    Arsigny et al., MICCAI 2006. The inverse is the flow of -v.
    """

    velocity: Tensor
    squarings: int = 7

    def displacement_field(self) -> DisplacementField:
        """The flow as a displacement field on the velocity's own lattice."""
        displacement = self.velocity / 2**self.squarings
        for _ in range(self.squarings):
            displacement = _for_twice_the_time(displacement)
        return DisplacementField(displacement)

    def __call__(self, points: Tensor) -> Tensor:
        return self.displacement_field()(points)

    def inverse(self) -> VelocityField:
        """The flow of -v."""
        return VelocityField(-self.velocity, self.squarings)


def _for_twice_the_time(displacement: Tensor) -> Tensor:
    """u + u∘(id + u); where no gradient is asked for, a few layers at a time, whose temporaries stay in the processor's cache."""
    lattice = identity_points(displacement.shape[2:], displacement)
    if torch.is_grad_enabled() or displacement.device.type != "cpu":
        return displacement + sample(displacement, lattice + displacement)
    doubled = torch.empty_like(displacement)
    layers = max(1, POINTS_AT_A_TIME // displacement[0, 0, 0].numel())
    for to, start, place in zip(*(one.split(layers, dim=2) for one in (doubled, displacement, lattice)), strict=True):
        torch.add(start, sample(displacement, place + start, rounded=True), out=to)
    return doubled


@dataclass(frozen=True)
class Composition:
    """x ↦ maps[0](maps[1](… maps[-1](x))): the last one is applied first, as in a product of matrices."""

    maps: tuple[Map, ...]

    def __call__(self, points: Tensor) -> Tensor:
        for one in reversed(self.maps):
            points = one(points)
        return points


@dataclass(frozen=True)
class Inverse:
    """An inverse found numerically: the field and how far `forward(field(x))` is from x, in the unit given to `invert`."""

    field: DisplacementField
    residual_mean: float
    residual_max: float


@torch.no_grad()
def invert(
    forward: Map,
    shape: Sequence[int],
    *,
    like: Tensor,
    start: Tensor | None = None,
    scale: Sequence[float] | None = None,
    iterations: int = 30,
    tolerance: float = 1e-3,
) -> Inverse:
    """The inverse of `forward` as a displacement field on the lattice of `shape`.

    Newton's method, started as the fixed point y ← y + x - forward(y) (Chen et al., Med. Phys. 2008), which alone does not
    converge where the map stretches more than twofold. Each point keeps its best estimate; one whose step did not help
    takes half of it next time, and every second time tries the mean of its neighbours instead. Where `forward` folds
    there is no inverse, and a large residual remains; when little else is left to gain it ends.

    Args:
        start: first estimate of the mapped points [1, dim, *shape]; default the identity.
        scale: length of the cube per axis, in the unit of the residual (mm, say); default 1.
        iterations: evaluations of `forward` at most, after the first.
        tolerance: stop when no point's residual exceeds this.
    """
    target = identity_points(shape, like)
    dim = target.shape[1]
    lengths = torch.as_tensor(scale or [1.0] * dim, dtype=like.dtype, device=like.device).view(1, dim, *(1,) * dim)
    estimate = target if start is None else start
    missing = target - forward(estimate)
    error = vector_length(missing * lengths)
    damping = torch.ones_like(error)
    means = [float(error.mean())]
    for iteration in range(iterations):
        if float(error.max()) <= tolerance or (
            len(means) > STALL_ITERATIONS and means[-1] > STALLED * means[-1 - STALL_ITERATIONS]
        ):
            break
        candidate = estimate + damping * _newton_step(estimate, target - missing, missing)
        from_neighbours = iteration % 2 == 1
        if from_neighbours:
            candidate = torch.where(damping < 1, target + _mean_of_neighbours(estimate - target), candidate)
        candidate_missing = target - forward(candidate)
        candidate_error = vector_length(candidate_missing * lengths)
        better = candidate_error < error
        damping = torch.where(better, 1.0, damping if from_neighbours else 0.5 * damping)
        estimate = torch.where(better, candidate, estimate)
        missing = torch.where(better, candidate_missing, missing)
        error = torch.where(better, candidate_error, error)
        means.append(float(error.mean()))
    return Inverse(DisplacementField(estimate - target), float(error.mean()), float(error.max()))


def vector_length(vectors: Tensor, *, axis: int = 1) -> Tensor:
    """Euclidean length over a leading axis, which is kept: several times faster than `norm` there."""
    return vectors.square().sum(dim=axis, keepdim=True).sqrt()


def derivatives(values: Tensor, axis: int) -> Tensor:
    """d values / d x_axis in unit-cube coordinates of `values` [B, C, *shape]: central differences, one-sided at the border."""
    (derivative,) = torch.gradient(values, spacing=1.0 / (values.shape[2 + axis] - 1), dim=2 + axis)
    return derivative


def _newton_step(estimate: Tensor, reached: Tensor, missing: Tensor) -> Tensor:
    """The step of the mapped lattice `estimate` that moves `reached`, its image under a map, by `missing`.

    The map's own Jacobian matrix is that of `reached` times the inverse of that of `estimate`. Where `reached` (nearly)
    folds, its Jacobian is taken as the identity.
    """
    columns = [derivatives(reached, axis) for axis in range(reached.shape[1])]
    determinant = _determinant(columns)
    is_sound = determinant > 0.05
    step = torch.zeros_like(estimate)
    for axis in range(len(columns)):
        # Cramer's rule
        solved = _determinant([*columns[:axis], missing, *columns[axis + 1 :]]) / determinant
        step += derivatives(estimate, axis) * torch.where(is_sound, solved, missing[:, axis : axis + 1])
    return step


def _mean_of_neighbours(values: Tensor) -> Tensor:
    """Mean over each lattice point of `values` [B, C, *shape] and the points around it; the border repeats."""
    dim = values.dim() - 2
    average = F.avg_pool2d if dim == 2 else F.avg_pool3d
    return average(F.pad(values, (1, 1) * dim, mode="replicate"), 3, stride=1)


def jacobian_determinant(points: Tensor) -> Tensor:
    """det ∂φ/∂x of the mapped lattice `points` [B, dim, *shape] in unit-cube coordinates: [B, 1, *shape].

    Central differences, one-sided at the border. At or below 0 the map folds.
    """
    return _determinant([derivatives(points, axis) for axis in range(points.shape[1])])


def displacement_determinant(displacement: Tensor) -> Tensor:
    """det ∂φ/∂x of φ(x) = x + u(x), u being `displacement` [B, dim, *shape] in voxels: [B, 1, *shape]; as `jacobian_determinant`."""
    columns = list(torch.gradient(displacement, dim=tuple(range(2, displacement.dim()))))
    for axis, column in enumerate(columns):
        column[:, axis] += 1
    return _determinant(columns)


def _determinant(columns: Sequence[Tensor]) -> Tensor:
    """Determinant [B, 1, *shape] of the matrices with these columns, each [B, dim, *shape]."""
    # Written out: several times faster than torch's cross product along this axis.
    if len(columns) == 2:
        a, b = (column.unbind(1) for column in columns)
        return (a[0] * b[1] - a[1] * b[0])[:, None]
    a, b, c = (column.unbind(1) for column in columns)
    first = b[1] * c[2] - b[2] * c[1]
    second = b[2] * c[0] - b[0] * c[2]
    third = b[0] * c[1] - b[1] * c[0]
    return torch.addcmul(torch.addcmul(a[0] * first, a[1], second), a[2], third)[:, None]
