"""What every measure of similarity is: a fixed image prepared once, a value, and the gradients that come with it.

Similarity is higher when better, loss is lower when better, and `loss = highest - similarity`. Images are `[B, C, *shape]`,
2-D or 3-D, float32 or float64, on any device; a mask is `[B or 1, 1, *shape]`, and nonzero means counted. Every measure is
differentiable (once) with respect to both images.

A measure gives one number, so its gradient is worked out together with the value: what autograd keeps until the backward
pass is one image for each image that needs a gradient, and no intermediate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError

Gradients = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Comparison:
    """A fixed image prepared once, to be compared with many warped images; made by `Measure.against`."""

    fixed_shape: torch.Size
    highest: float
    measured: Callable[[Tensor], Tensor]

    def similarity(self, warped: Tensor) -> Tensor:
        """Similarity of `warped` [B, C, *shape] to the fixed image, a scalar.

        Raises:
            InputError: `warped` has another shape than fixed.
        """
        if warped.shape != self.fixed_shape:
            raise InputError(
                f"warped and fixed differ in shape; they must be equal. Got {list(warped.shape)} and {list(self.fixed_shape)}. "
                "Resample warped onto the lattice of fixed."
            )
        return self.measured(warped)

    def loss(self, warped: Tensor) -> Tensor:
        """`highest - similarity(warped)`."""
        return self.highest - self.similarity(warped)


class Measure(ABC):
    """A way to compare two images. Subclasses are frozen dataclasses whose fields are its options."""

    name: ClassVar[str]
    highest: ClassVar[float]

    @property
    def reach_vox(self) -> int | None:
        """How far around a voxel the images decide what it adds to the mean; None where all of them do, and where that is not known."""
        return None

    @property
    def every_vox(self) -> int:
        """The mean is taken over every so many voxels along each axis, from the first one on."""
        return 1

    def places(self, mask: Tensor) -> Tensor:
        """The weight of each place over which the mean is taken, for a `mask` [B or 1, 1, *shape]: 1 where it counts, else 0."""
        return (mask != 0).float()

    def against(self, fixed: Tensor, mask: Tensor | None = None) -> Comparison:
        """Everything that depends only on `fixed` [B, C, *shape] and `mask` [B or 1, 1, *shape], worked out once.

        A sample whose mask is empty counts as having similarity 0.

        Raises:
            InputError: fixed is not a 2-D or 3-D floating image, or the mask does not fit it.
        """
        _check(fixed, mask)
        return Comparison(
            fixed.shape, self.highest, self._prepared(fixed, None if mask is None else normalized_weight(mask, fixed))
        )

    def similarity(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Similarity of the images [B, C, *shape], a scalar; errors as in `against` and `Comparison.similarity`."""
        return self.against(fixed, mask).similarity(warped)

    def loss(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """`highest - similarity(warped, fixed, mask)`."""
        return self.against(fixed, mask).loss(warped)

    def as_dict(self) -> dict[str, Any]:
        """Name and options, for reports."""
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}  # type: ignore[arg-type]

    @abstractmethod
    def _prepared(self, fixed: Tensor, weight: Tensor | None) -> Callable[[Tensor], Tensor]:
        """warped ↦ similarity. `weight` [B, 1, *shape] sums to 1 in each sample; None weighs all voxels alike."""


def _check(fixed: Tensor, mask: Tensor | None) -> None:
    if fixed.dim() not in (4, 5) or not fixed.is_floating_point():
        raise InputError(
            f"fixed must be a floating-point image [B, C, *shape] in 2-D or 3-D; got {fixed.dtype} {list(fixed.shape)}. "
            "Add the batch and channel axes, or convert it."
        )
    batch, _, *shape = fixed.shape
    if mask is not None and list(mask.shape) not in ([batch, 1, *shape], [1, 1, *shape]):
        raise InputError(
            f"The mask does not fit fixed; it must be {[batch, 1, *shape]}, got {list(mask.shape)}. "
            "Resample it onto the lattice of fixed."
        )


def normalized_weight(mask: Tensor, fixed: Tensor) -> Tensor:
    """[B, 1, *shape]: 1 / count where the mask is nonzero, 0 elsewhere."""
    counted = (mask != 0).to(fixed.dtype).expand(fixed.shape[0], *mask.shape[1:])
    return counted / counted.flatten(1).sum(1).clamp_min(1).view(-1, *(1,) * (fixed.dim() - 1))


def spatial_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """(Weighted) mean over space of `values` [B, C, *shape]: [B, C, 1, …]."""
    axes = tuple(range(2, values.dim()))
    if weight is None:
        return values.mean(axes, keepdim=True)
    return (values * weight).sum(axes, keepdim=True)


class _KnownGradient(torch.autograd.Function):
    """A scalar whose gradients with respect to two images are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *images_and_gradients: Tensor | None) -> Tensor:
        ctx.save_for_backward(*images_and_gradients[2:])
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        pulled = (None if gradient is None else gradient * upstream for gradient in ctx.saved_tensors)
        return (None, *pulled, None, None)


def differentiable(evaluate: Callable[[tuple[bool, bool]], tuple[Tensor, Gradients]], images: tuple[Tensor, Tensor]) -> Tensor:
    """The value that `evaluate` gives, tied to the two images by the gradients that it gives for those that need one."""
    wanted = [image.requires_grad and torch.is_grad_enabled() for image in images]
    with torch.no_grad():
        value, gradients = evaluate((wanted[0], wanted[1]))
    tied: Tensor = _KnownGradient.apply(value, *images, *gradients)  # type: ignore[no-untyped-call]
    return tied
