from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.losses.overlap import dice_loss, one_hot


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_hot_holds_the_classes_common_to_both_without_background() -> None:
    first = torch.tensor([[0, 1, 2], [7, 7, 5]])[None, None]
    second = torch.tensor([[7, 0, 0], [2, 3, 2]])[None, None].float()
    memberships, others = one_hot(first, second)
    assert memberships.dtype == torch.float32
    torch.testing.assert_close(memberships[0], torch.stack([first[0, 0] == 2, first[0, 0] == 7]).float())
    torch.testing.assert_close(others[0], torch.stack([second[0, 0] == 2, second[0, 0] == 7]).float())


@pytest.mark.parametrize("other", [[[[[0, 0], [3, 3]]]], [[[[0, 0], [0, 0]]]]])
def test_labels_without_a_common_class_are_refused(other: list[object]) -> None:
    with pytest.raises(InputError, match="no class in common"):
        one_hot(torch.tensor([[[[0, 1], [1, 2]]]]), torch.tensor(other))


def test_each_pair_of_a_batch_needs_a_common_class() -> None:
    first = torch.tensor([[[[1, 0]]], [[[2, 0]]]])
    one_hot(first, first)
    with pytest.raises(InputError, match="no class in common"):
        one_hot(first, first.flip(0))


@pytest.mark.parametrize("shape", [(2, 3, 5, 6, 4), (2, 3, 7, 5)])
def test_dice_loss_is_one_minus_twice_the_overlap_over_the_sum(shape: tuple[int, ...]) -> None:
    first, second = uniform(*shape).requires_grad_(), uniform(*shape, seed=1)
    scores = [
        2 * (first[b, c] * second[b, c]).sum() / (first[b, c].sum() + second[b, c].sum()) for b in range(2) for c in range(3)
    ]
    torch.testing.assert_close(dice_loss(first, second), 1 - torch.stack(scores).mean(), atol=1e-6, rtol=0)
    assert torch.autograd.gradcheck(dice_loss, (first, second.requires_grad_()), fast_mode=True)


def test_dice_loss_is_zero_for_equal_and_one_for_disjoint_labels() -> None:
    memberships, moved = one_hot(torch.tensor([[[[1, 1, 0, 2]]]]), torch.tensor([[[[2, 0, 1, 0]]]]))
    assert float(dice_loss(memberships, memberships)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(memberships, moved)) == pytest.approx(1, abs=1e-6)


def test_dice_loss_equals_the_published_code() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = pytest.importorskip("unigradicon").GradientICONSparse.dice_loss
    first, second = uniform(2, 3, 4, 5, 6), uniform(2, 3, 4, 5, 6, seed=1)
    torch.testing.assert_close(dice_loss(first, second), published(None, first, second), atol=1e-9, rtol=0)


def test_class_memberships_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="class memberships differ in shape"):
        dice_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
