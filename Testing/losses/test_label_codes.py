"""Labels as codes: alike where they overlap, apart where they do not, and smooth between."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import identity_points
from RegistrationNetLib.losses.label_codes import CHANNELS, code_pairs

SHAPE = (24, 24)


def square(row: int, label: int = 1) -> Tensor:
    """Labels [1, 1, *SHAPE] with one square of 8 pixels."""
    labels = torch.zeros(1, 1, *SHAPE, dtype=torch.int64)
    labels[..., row : row + 8, 8:16] = label
    return labels


def loss_of(fixed: Tensor, moving: Tensor, moved: float = 0.0, way: int = 0) -> Tensor:
    (pair,) = code_pairs(fixed, moving, [SHAPE])
    points = identity_points(SHAPE, torch.zeros(()))
    points[:, 0] += moved / (SHAPE[0] - 1)
    return pair.loss(way, points)


def test_equal_labels_lose_nothing_and_labels_apart_everything() -> None:
    assert loss_of(square(8), square(8)) == pytest.approx(0, abs=1e-6)
    assert loss_of(square(2), square(14)) == pytest.approx(1, abs=0.01)
    mixed = square(8)
    mixed[..., 8:12, 8:16] = 2
    other = mixed.clone()
    other[mixed == 1], other[mixed == 2] = 2, 1
    assert loss_of(mixed, other) > 0.7


@pytest.mark.parametrize("way", [0, 1])
def test_the_loss_falls_steadily_to_the_place_where_they_meet(way: int) -> None:
    sign = 1 if way == 0 else -1
    losses = [float(loss_of(square(8), square(12), sign * moved, way)) for moved in torch.linspace(0, 4, 9).tolist()]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert losses[-1] < 0.01


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (3, 3), (CHANNELS, CHANNELS), (60, CHANNELS)])
def test_many_labels_take_few_channels_and_stay_apart(count: int, channels: int) -> None:
    stripes = torch.arange(1, count + 1).repeat_interleave(8).view(1, 1, -1, 1).expand(-1, -1, -1, 8).contiguous()
    (pair,) = code_pairs(stripes, stripes, [(8 * count, 8)])
    assert pair.fixed.shape[1] == channels
    inner = pair.fixed[0, :, 4::8, 4]  # [channels, count]
    torch.testing.assert_close(inner.norm(dim=0), torch.ones(count), atol=0.02, rtol=0)
    apart = torch.cdist(inner.T, inner.T) + 9 * torch.eye(count)
    assert apart.min() > 0.5


def test_coarser_lattices_hold_the_share_of_each_label() -> None:
    fine, coarse = code_pairs(square(8), square(8), [(24, 24), (12, 12)])
    assert coarse.shape == (12, 12)
    assert float(coarse.fixed.mean()) == pytest.approx(float(fine.fixed.mean()), rel=0.1)


def test_labels_of_one_image_alone_do_not_count_and_some_must_be_common() -> None:
    both = square(8)
    both[..., :4, :4] = 7
    torch.testing.assert_close(loss_of(both, square(8)), loss_of(square(8), square(8)))
    with pytest.raises(InputError, match="no class in common"):
        code_pairs(square(8), square(8, label=2), [SHAPE])
