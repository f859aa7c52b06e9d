"""Adam on one tensor."""

import pytest
import torch

from RegistrationNetLib.errors import RefinementError
from RegistrationNetLib.registration.optimizer import descend


def test_it_is_torchs_adam_with_the_step_of_a_cosine() -> None:
    target = torch.tensor([3.0, -1.0, 0.5])
    ours = torch.zeros(3, requires_grad=True)
    for _ in descend(ours, [lambda: (ours - target).square().sum()], steps=20, first_step=0.3, flat=1e-3):
        pass
    theirs = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.3, betas=(0.9, 0.99), eps=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20, eta_min=0.03)
    for _ in range(20):
        optimizer.zero_grad()
        (theirs - target).square().sum().backward()
        optimizer.step()
        schedule.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_several_losses_count_as_their_sum() -> None:
    one, other = (torch.zeros(4, requires_grad=True) for _ in range(2))
    parts = [lambda: (one[:2] - 1).square().sum(), lambda: (one + 2).square().sum()]
    list(descend(one, parts, steps=7, first_step=0.2))
    list(descend(other, [lambda: (other[:2] - 1).square().sum() + (other + 2).square().sum()], steps=7, first_step=0.2))
    torch.testing.assert_close(one, other)


def test_the_callers_threads_stay_as_they_were() -> None:
    before = torch.get_num_threads()
    parameters = torch.ones(1, requires_grad=True)
    list(descend(parameters, [lambda: parameters.sum()] * 2, steps=2, first_step=0.1))
    assert torch.get_num_threads() == before


def test_a_flat_gradient_hardly_moves_anything() -> None:
    parameters = torch.zeros(1, requires_grad=True)
    for _ in descend(parameters, [lambda: 1e-6 * parameters.sum()], steps=5, first_step=1.0, flat=1e-2):
        pass
    assert abs(parameters.item()) < 1e-2


def test_each_step_is_told_and_none_is_taken_ahead() -> None:
    parameters = torch.ones(1, requires_grad=True)
    steps = descend(parameters, [lambda: parameters.square().sum()], steps=3, first_step=0.1)
    assert next(steps) == 1
    assert parameters.item() == pytest.approx(0.9)
    assert list(steps) == [2, 3]


def test_no_steps_change_nothing() -> None:
    parameters = torch.ones(1, requires_grad=True)
    assert list(descend(parameters, [lambda: parameters.sum()], steps=0, first_step=1.0)) == []
    assert parameters.item() == 1


def test_a_loss_that_is_not_a_number_stops_with_an_error() -> None:
    parameters = torch.ones(1, requires_grad=True)
    with pytest.raises(RefinementError, match="must stay finite"):
        next(descend(parameters, [lambda: parameters.sum() * float("nan")], steps=1, first_step=1.0))
