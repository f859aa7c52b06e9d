"""Overlap of labels: their classes as memberships, and soft Dice."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError


def one_hot(labels: Tensor, other_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Membership of the classes found in both label images [B, 1, *shape], without background (0): two float32 [B, classes, *shape].

    Raises:
        InputError: a pair of the batch has no class in common.
    """
    shared = sorted(set(labels.unique().tolist()) & set(other_labels.unique().tolist()) - {0})
    first, second = (torch.cat([one == label for label in shared] or [one[:, :0] != 0], dim=1) for one in (labels, other_labels))
    if not bool((_present(first) & _present(second)).any(1).all()):
        raise InputError(
            "The label images have no class in common; Dice needs at least one besides background (0) in each pair. "
            f"Got {labels.unique().tolist()} and {other_labels.unique().tolist()}. Check that both use one labelling."
        )
    return first.float(), second.float()


def dice_loss(warped: Tensor, fixed: Tensor) -> Tensor:
    """1 - soft Dice of class memberships [B, classes, *shape] in [0, 1], averaged over classes and samples.

    Dice = (2 Σ w f + 1e-6) / (Σ w + Σ f + 1e-6), Milletari et al., 3DV 2016, without their squares, as in uniGradICON.

    Raises:
        InputError: the shapes differ.
    """
    if warped.shape != fixed.shape:
        raise InputError(
            f"The class memberships differ in shape; they must be equal. Got {list(warped.shape)} and {list(fixed.shape)}. "
            "Make both with one call of one_hot."
        )
    axes = tuple(range(2, warped.dim()))
    dice = (2 * (warped * fixed).sum(axes) + 1e-6) / (warped.sum(axes) + fixed.sum(axes) + 1e-6)  # [B, classes]
    return 1 - dice.mean()


def _present(memberships: Tensor) -> Tensor:
    return (memberships != 0).flatten(2).any(2)
