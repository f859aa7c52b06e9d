"""Augmentation: what it changes, what it changes alike in both images, and that labels go along."""

import math

import pytest
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.training import augmentation
from RegistrationNetLib.training.augmentation import AugmentationOptions, augmented
from RegistrationNetLib.training.pairs import Example, Pair
from RegistrationNetLib.training.synthetic import AnatomyPairs
from RegistrationNetLib.training.validation import overlap

PAIR = AnatomyPairs((24, 30), classes=3).draw(torch.Generator().manual_seed(0))


def changed(seed: int = 0, pair: Pair = PAIR, **options: float | bool) -> Pair:
    return augmented(pair, AugmentationOptions(**options), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def test_nothing_is_changed_unless_asked() -> None:
    same = changed()
    assert torch.equal(same.fixed.values, PAIR.fixed.values)
    assert torch.equal(same.moving.values, PAIR.moving.values)


@pytest.mark.parametrize("options", [{"affine": 0.05}, {"flips": True}, {"gamma": 0.5}, {"noise": 0.1}])
def test_every_option_changes_the_images_as_the_seed_says(options: dict[str, float | bool]) -> None:
    one, again, other = (changed(seed, **options).fixed.values for seed in (0, 0, 1))
    assert not torch.allclose(one, PAIR.fixed.values, atol=1e-3)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_flips_are_exact_and_alike_for_both_images() -> None:
    seen = set()
    for seed in range(12):
        flipped = changed(seed, flips=True)
        axes = [
            axes
            for axes in ((), (2,), (3,), (2, 3))
            if torch.allclose(flipped.fixed.values, PAIR.fixed.values.flip(axes), atol=1e-5)
        ]
        seen |= set(axes)
        assert len(axes) == 1
        torch.testing.assert_close(flipped.moving.values, PAIR.moving.values.flip(axes[0]), atol=1e-5, rtol=0)
        assert flipped.fixed.labels is not None
        assert PAIR.fixed.labels is not None
        assert torch.equal(flipped.fixed.labels, PAIR.fixed.labels.flip(axes[0]))
    assert len(seen) == 4


def test_affine_maps_differ_between_the_images() -> None:
    twins = Pair(PAIR.fixed, PAIR.fixed)
    one = changed(pair=twins, affine=0.05)
    assert not torch.allclose(one.fixed.values, one.moving.values, atol=1e-3)


def test_labels_and_mask_go_along_with_the_image() -> None:
    mask = torch.ones(1, 1, 24, 30, dtype=torch.bool)
    values = torch.zeros(1, 1, 24, 30)
    values[..., 6:15, 8:20] = 1
    labels = (values > 0).long() * 40_000_001
    example = Example(values, mask, labels)
    moved = changed(2, Pair(example, example), affine=0.08).fixed
    assert moved.labels is not None
    assert moved.mask is not None
    assert set(moved.labels.unique().tolist()) == {0, 40_000_001}
    assert not bool(moved.mask.all()), "what comes from outside does not count"
    ours, theirs = moved.labels > 0, moved.values > 0.5
    assert float((ours & theirs).sum() / (ours | theirs).sum()) > 0.85


def test_affine_maps_leave_the_pair_registrable() -> None:
    points = (
        torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 24, 30], align_corners=True).movedim(-1, 1).flip(1) / 2
        + 0.5
    )
    assert overlap(changed(affine=0.02), points) > 0.3


@pytest.mark.parametrize("name", ["affine", "gamma", "noise"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_strengths_below_zero_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"augmentation: {name} must be 0 or more; got"):
        AugmentationOptions(**{name: value})


@pytest.mark.parametrize("shape", [(25, 31), (13, 17, 15)])
def test_linear_maps_are_about_the_centre_and_shifts_are_drawn_for_each_axis(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(augmentation, "_moved", lambda example, affine: seen.append(affine.matrix) or example)
    example = Example(torch.zeros(1, 1, *shape))
    for seed in range(50):
        changed(seed, Pair(example, example), affine=0.05, flips=True)
    centre = torch.full((len(shape),), 0.5)
    ends = torch.stack([matrix[:, :-1] @ centre + matrix[:, -1] for matrix in seen]) - centre
    # What moves the centre is the random shift alone: a normal variable of its own for each axis.
    assert ends.mean(0).abs().max() < 0.02
    assert torch.allclose(ends.std(0), torch.tensor(0.05), atol=0.01)
    assert torch.corrcoef(ends.T).fill_diagonal_(0).abs().max() < 0.3
