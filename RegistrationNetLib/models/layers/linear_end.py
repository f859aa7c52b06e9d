"""The end of the U-net, which is linear, as one convolution on the coarse lattice.

The last level of the published network goes from the coarse lattice to that of the images, which is twice as fine:

    f = T a + U x + shift        T: transposed convolution, 4 taps, stride 2; U: linear interpolation; batch normalization
    y = G [f, images] + bias     G: convolution, 3 taps; y is the displacement

x are the coarse features, a the same after leaky ReLU, with the skip behind them. Batch normalization by its running statistics is
a scale, which `EndWeights` holds multiplied into T and U, and a shift. Nothing here but the leaky ReLU is not linear, so that y is
one linear function of a, x and the images: f, the widest features, need never be made, and the arithmetic is less.

**One transposed convolution.** Let z be a, x and the images, side by side as channels of the coarse lattice (`CoarseInput`; the
images as 2^dim channels, one for each fine voxel of a coarse point). Then [f - shift, images] = W z, with W a transposed
convolution of 4 taps per axis: those of T for a; (1/4, 3/4, 3/4, 1/4) for x; a single 1 for each channel of the images.

**One convolution.** Along one axis, with W and G zero beyond their taps,

    f[p] = Σ_i W[p - 2 i + 1] z[i]        y[p] = Σ_j G[j] f[p + j - 1]

Let p = 2 q + r, the fine voxel r (0 or 1) of the coarse point q, and i = q + t - 1:

    y[2 q + r] = Σ_t C[r, t] z[q + t - 1]        C[r, t] = Σ_j G[j] W[2 (1 - t) + r + j]

C[r, t] is zero but for t = 0, 1, 2: a convolution of 3 taps on the coarse lattice, with the fine voxels r as output channels, which
a pixel shuffle puts into place. Its numbers are those of W correlated with G (`_composed`). The shift goes into its bias.

**The border.** G sees zeros where the image ends, but C sees f go on: at the first voxel f[-1] = W[2] z[-1] + W[0] z[0] + shift, so
that y[0] has G[0] f[-1] too much, and likewise at the last one. `_Face` computes what there is too much and takes it away. The
images need no such care, for z is zero outside in their channels.

# B batch, C channel; N… the shape of the images, n… that of the coarse lattice, n = ceil(N / 2)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...memory import full_precision
from .coarse_input import CoarseInput
from .layout import channels_last, offsets, shuffled, unshuffled

# Points of the coarse lattice that are convolved at a time on the CPU: what is read for them stays in the processor's cache.
POINTS_AT_A_TIME = 2**17
CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

_IS_FOR_GRADIENT_ALONE: ContextVar[bool] = ContextVar("is_for_gradient_alone", default=False)


@contextmanager
def for_gradient_alone() -> Iterator[None]:
    """Inside, `linear_end` gives zeros that have the right gradient: for a pass that is repeated, whose values are known."""
    token = _IS_FOR_GRADIENT_ALONE.set(True)
    try:
        yield
    finally:
        _IS_FOR_GRADIENT_ALONE.reset(token)


@dataclass(frozen=True)
class EndWeights:
    """Parameters of the end, with the normalization and the final division multiplied in.

    Attributes:
        spread: T, [C in, C, 4…].
        shortcut: the weight of each interpolated channel in U, [C].
        shift: [C].
        gather: G, [dim, C + images, 3…].
        bias: [dim].
    """

    spread: Tensor
    shortcut: Tensor
    shift: Tensor
    gather: Tensor
    bias: Tensor

    @property
    def dim(self) -> int:
        """Number of axes of the lattice."""
        return self.gather.dim() - 2

    @property
    def features(self) -> int:
        """Channels of f."""
        return self.spread.shape[1]

    @property
    def images(self) -> int:
        """Channels of the images."""
        return self.gather.shape[1] - self.features

    def upsampling_kernel(self) -> Tensor:
        """W, [channels of z, C + images, 4…]."""
        of_activated = _with_output_channels(self.spread, behind=self.images)
        of_interpolated = _with_output_channels(self._interpolation(), behind=self.images)
        of_images = _with_output_channels(self._placement(), before=self.features)
        return torch.cat([of_activated, of_interpolated, of_images])

    def _interpolation(self) -> Tensor:
        """U as a transposed convolution, [C, C, 4…]."""
        linear = _outer([(0.25, 0.75, 0.75, 0.25)] * self.dim, self.spread)
        diagonal = torch.diag(self.shortcut)
        return diagonal.view(*diagonal.shape, *(1,) * self.dim) * linear

    def _placement(self) -> Tensor:
        """The pixel shuffle as a transposed convolution, [images · 2^dim, images, 4…]: a 1 at the tap of each offset."""
        unit = [(0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)]
        voxels = torch.stack([_outer([unit[bit] for bit in offset], self.spread) for offset in offsets(self.dim)])
        placed = self.spread.new_zeros(self.images, len(voxels), self.images, *voxels.shape[1:])
        for channel in range(self.images):
            placed[channel, :, channel] = voxels
        return placed.flatten(0, 1)


def linear_end(features: Tensor, skip: Tensor, images: Tensor, weights: EndWeights) -> Tensor:
    """The displacement y, [B, dim, N…].

    Args:
        features: x, [B, C, n…], before leaky ReLU.
        skip: features [B, C, n…] that join them, after leaky ReLU.
        images: both of them, [B, C, N…].
        weights: of this end.
    """
    upsampling = weights.upsampling_kernel()
    gather = weights.gather[:, : weights.features]
    bias = (weights.bias + gather.flatten(2).sum(2) @ weights.shift).repeat_interleave(2**weights.dim)
    composed = channels_last(_composed(upsampling, weights.gather))
    of_features = upsampling[: features.shape[1] + skip.shape[1] + weights.features, : weights.features]
    displacement: Tensor = _LinearEnd.apply(features, skip, images, composed, bias, of_features, weights.shift, gather)  # type: ignore[no-untyped-call]
    return displacement


class _LinearEnd(torch.autograd.Function):
    """y from the inputs of `linear_end`, the composed convolution and its bias, and what `_Face` needs; once differentiable.

    On the CPU some layers at a time, so that z is made and used in the processor's cache; for the gradient z is made once more.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, skip: Tensor, images: Tensor, composed: Tensor, bias: Tensor, *outside: Tensor
    ) -> Tensor:
        ctx.save_for_backward(features, skip, images, composed, bias, *outside)
        whole = CoarseInput.whole(features, skip, images, kept=len(outside[1]))
        displacement = images.new_empty(len(images), whole.dim, *images.shape[2:])
        if _IS_FOR_GRADIENT_ALONE.get():
            return displacement.zero_()
        for part, fine_layers in _slabs(whole):
            voxels = displacement[:, :, fine_layers]
            voxels.copy_(shuffled(CONV[whole.dim](part.stacked(), composed, bias), voxels.shape[2:]))
        for face in _faces(whole):
            face.voxels(displacement).sub_(face.excess(face.layer.stacked(), *outside))
        return displacement

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_displacement: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(by_displacement.device):
            return _LinearEnd._gradients(ctx, by_displacement)

    @staticmethod
    def _gradients(ctx: Any, by_displacement: Tensor) -> tuple[Tensor | None, ...]:
        """The convolution's in the precision in which it was done."""
        features, skip, images, composed, bias, *outside = ctx.saved_tensors
        whole = CoarseInput.whole(features, skip, images, kept=len(outside[1]))
        wanted = ctx.needs_input_grad[:3]
        by_inputs = [
            torch.zeros_like(one) if is_wanted else None for one, is_wanted in zip((features, skip, images), wanted, strict=True)
        ]
        by_composed, by_bias = torch.zeros_like(composed), torch.zeros_like(bias)
        for part, fine_layers in _slabs(whole):
            by_y = unshuffled(by_displacement[:, :, fine_layers])
            by_z, *by_convolution = _convolution_gradients(by_y, part.stacked(), composed, of_input=any(wanted))
            _accumulate([by_composed, by_bias], by_convolution)
            if any(wanted):
                part.add_gradients(by_z, *by_inputs)
        by_outside = [torch.zeros_like(weight) for weight in outside]
        for face in _faces(whole):
            by_z, *by_weights = face.gradients(-face.voxels(by_displacement), face.layer.stacked(), outside)
            _accumulate(by_outside, by_weights)
            face.layer.add_gradients(by_z, *by_inputs)
        return (*by_inputs, by_composed, by_bias, *by_outside)


def _convolution_gradients(by_y: Tensor, z: Tensor, kernel: Tensor, *, of_input: bool) -> list[Tensor]:
    """Gradients of a convolution without padding: with respect to `z` (where asked for), its kernel and its bias."""
    dim = z.dim() - 2
    ones, zeros = [1] * dim, [0] * dim
    stride, padding, dilation, output_padding = ones, zeros, ones, zeros
    is_transposed, groups = False, 1
    by_y, z = by_y.to(kernel.dtype), z.to(kernel.dtype)
    gradients: list[Tensor] = torch.ops.aten.convolution_backward(
        by_y, z, kernel, [len(kernel)], stride, padding, dilation, is_transposed, output_padding, groups, [of_input, True, True]
    )
    return gradients


def _accumulate(totals: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for total, value in zip(totals, values, strict=True):
        total += value


def _slabs(whole: CoarseInput) -> Iterator[tuple[CoarseInput, slice]]:
    """Some layers at a time: what the convolution reads for them, and which layers of the images they are."""
    count, points = whole.features.shape[2], whole.features[:, 0].numel()
    layers = max(1, POINTS_AT_A_TIME * count // points) if whole.features.device.type == "cpu" else count
    for start in range(0, count, layers):
        stop = min(start + layers, count)
        yield whole.layers(0, start - 1, stop + 1), slice(2 * start, 2 * stop)


def _faces(whole: CoarseInput) -> Iterator[_Face]:
    for axis, is_last in itertools.product(range(whole.dim), (False, True)):
        low = whole.features.shape[2 + axis] - 1 if is_last else -1
        yield _Face(whole.layers(axis, low, low + 2), is_last)


@dataclass(frozen=True)
class _Face:
    """One of the 2 · dim faces of the lattice, and what the composed convolution adds too much at the voxels that touch it.

    A voxel outside along several axes (beyond an edge or a corner) must count once; it counts for the lowest of these axes.

    Attributes:
        layer: two layers of z, the outermost at this face and the margin beyond it.
        is_last: whether it is the last layer along `layer.axis`, not the first.
    """

    layer: CoarseInput
    is_last: bool

    def voxels(self, values: Tensor) -> Tensor:
        """The voxels of `values` [B, C, N…] that touch this face: a view, [B, C, N… without the face's axis]."""
        return values.select(2 + self.layer.axis, -1 if self.is_last else 0)

    def excess(self, z: Tensor, upsampling: Tensor, shift: Tensor, gather: Tensor) -> Tensor:
        """G[0] f[-1] at the first face, G[2] f[N] at the last one: [B, dim, N… without the face's axis].

        Args:
            z: of `layer`, stacked.
            upsampling: W, as far as it leads from features to f.
            shift: of f.
            gather: G, as far as it reads f.
        """
        axis, across = self.layer.axis, self.layer.dim - 1
        padding = [1 if other < axis else 0 for other in range(across)]
        outermost_tap = gather.select(2 + axis, 2 if self.is_last else 0)
        return CONV[across](self._features_beyond(z, upsampling, shift), outermost_tap, padding=padding)

    def _features_beyond(self, z: Tensor, upsampling: Tensor, shift: Tensor) -> Tensor:
        """f[-1], or f[N]: the layer next to the face, outside. Along the axes after the face's it has a voxel more on each side."""
        axis, shape, across = self.layer.axis, self.layer.images.shape[2:], self.layer.dim - 1
        tap = shape[axis] + 1 - 2 * self.layer.low if self.is_last else 2  # of f[N], or of f[-1], for the first of the two layers
        z = z[:, : len(upsampling)]
        two_layers = torch.cat([z.select(2 + axis, 0), z.select(2 + axis, 1)], dim=1)
        two_taps = torch.cat([upsampling.select(2 + axis, tap), upsampling.select(2 + axis, tap - 2)])
        beyond = CONV_TRANSPOSE[across](two_layers, two_taps, shift, stride=2, padding=2)
        for other, size in enumerate(size for other, size in enumerate(shape) if other != axis):
            beyond = beyond.narrow(2 + other, 1, size) if other < axis else beyond.narrow(2 + other, 0, size + 2)
        return beyond

    def gradients(self, by_excess: Tensor, z: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of `excess` with respect to z and the three weights."""
        inputs = [values.detach().to(by_excess.dtype).requires_grad_() for values in (z, *weights)]
        with torch.enable_grad():
            excess = self.excess(*inputs)
        return torch.autograd.grad(excess, inputs, by_excess)


def _composed(upsampling: Tensor, gather: Tensor) -> Tensor:
    """C from W [C in, C between, 4…] and G [C out, C between, 3…]: [C out · 2^dim, C in, 3…].

    W correlated with G gives 6 numbers per axis, Σ_j G[j] W[m - 2 + j] for m = 0 … 5. C[r, t] is that of m = 2 (2 - t) + r: three
    pairs, which are the taps from the last to the first, of two fine voxels each.
    """
    dim = gather.dim() - 2
    inner, out = upsampling.shape[0], gather.shape[0]
    pairs = CONV[dim](upsampling, gather, padding=2).view(inner, out, *(3, 2) * dim)
    taps, voxels = [2 + 2 * axis for axis in range(dim)], [3 + 2 * axis for axis in range(dim)]
    return pairs.flip(taps).permute([1, *voxels, 0, *taps]).reshape(out * 2**dim, inner, *(3,) * dim)


def _outer(lines: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """The tensor whose entries are products of one entry of each line."""
    product = like.new_ones(())
    for line in lines:
        product = product[..., None] * like.new_tensor(line)
    return product


def _with_output_channels(kernel: Tensor, *, before: int = 0, behind: int = 0) -> Tensor:
    """`kernel` [C in, C out, …] with output channels of zeros before and behind its own."""
    first, last = (kernel.new_zeros(len(kernel), count, *kernel.shape[2:]) for count in (before, behind))
    return torch.cat([first, kernel, last], dim=1)
