"""Synthetic pairs: seeded, in range, and true to the map that they come with."""

import math

import pytest
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import identity_points, jacobian_determinant, sample
from RegistrationNetLib.training.synthetic import AnatomyPairs, ShapePairs
from RegistrationNetLib.training.validation import overlap

CLEAN = AnatomyPairs((40, 48), classes=5, blur_vox=0, bias=0, noise=0, one_contrast=True)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "pairs", [ShapePairs(32), ShapePairs(32, hollow=True), AnatomyPairs((24, 20)), AnatomyPairs((16, 18, 20))]
)
def test_a_seed_gives_one_pair_and_another_seed_another(pairs: ShapePairs | AnatomyPairs) -> None:
    one, again, other = (pairs.draw(seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.fixed.values, again.fixed.values)
    assert not torch.equal(one.fixed.values, other.fixed.values)
    assert not torch.equal(one.fixed.values, one.moving.values)
    for example in (one.fixed, one.moving):
        assert 0 <= float(example.values.min()) < float(example.values.max()) <= 1
        assert example.labels is not None
        assert example.labels.shape == example.values.shape
    assert [torch.equal(*(pair.fixed.values for pair in two)) for two in zip(pairs.first(2), pairs.first(2), strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("shape", [(40, 48), (36, 40, 44)])
def test_the_known_map_takes_moving_onto_fixed(shape: tuple[int, ...]) -> None:
    pairs = AnatomyPairs(shape, classes=4, displacement=0.15, roughness=0.25, blur_vox=0, bias=0, noise=0, one_contrast=True)
    for seed in range(3):
        pair, moving_from_fixed, fixed_from_moving = pairs.known(seeded(seed))
        lattice = identity_points(shape, pair.fixed.values)
        points = moving_from_fixed(lattice)
        before, after = (float((sample(pair.moving.values, at) - pair.fixed.values).abs().mean()) for at in (lattice, points))
        assert after < 0.35 * before
        assert overlap(pair, points) > max(0.8, overlap(pair, lattice) + 0.1)
        assert float((fixed_from_moving(points) - lattice).abs().mean()) < 0.1 / max(shape)
        assert float(jacobian_determinant(points).min()) > 0


def test_every_option_of_anatomies_changes_them() -> None:
    options = {
        "classes": 6, "displacement": 0.02, "roughness": 0.4, "one_contrast": False, "anatomy": 3, "blur_vox": 2.0, "bias": 0.5, "noise": 0.2,
    }  # fmt: skip
    plain = CLEAN.draw(seeded())
    for name, value in options.items():
        changed = AnatomyPairs(**{**vars(CLEAN), name: value}).draw(seeded())
        assert not torch.equal(changed.moving.values, plain.moving.values), name


@pytest.mark.parametrize("one_contrast", [True, False])
def test_pairs_of_one_anatomy_show_it_all_and_its_intensities_with_one_contrast(one_contrast: bool) -> None:
    options = {**vars(CLEAN), "displacement": 0.0, "anatomy": 3, "one_contrast": one_contrast}
    first, second = (AnatomyPairs(**options).draw(seeded(seed)) for seed in (0, 1))
    assert first.fixed.labels is not None
    assert second.fixed.labels is not None
    assert torch.equal(first.fixed.labels, second.fixed.labels)
    assert torch.allclose(first.fixed.values, second.fixed.values) == one_contrast
    other = AnatomyPairs(**{**options, "anatomy": 4}).draw(seeded())
    assert other.fixed.labels is not None
    assert not torch.equal(first.fixed.labels, other.fixed.labels)


def test_no_displacement_leaves_one_anatomy() -> None:
    pair = AnatomyPairs(**{**vars(CLEAN), "displacement": 0.0}).draw(seeded())
    torch.testing.assert_close(pair.fixed.values, pair.moving.values)


def test_each_tissue_has_its_own_intensity_in_each_image_unless_they_share_one() -> None:
    own = AnatomyPairs(**{**vars(CLEAN), "one_contrast": False, "displacement": 0.0}).draw(seeded())
    assert own.fixed.labels is not None
    assert torch.equal(own.fixed.labels, own.moving.labels)
    large = [label for label in range(1, 6) if int((own.fixed.labels == label).sum()) > 1]
    assert len(large) > 2
    for label in large:
        here = own.fixed.labels == label
        assert float(own.fixed.values[here].std()) < 1e-6
        assert float((own.fixed.values[here].mean() - own.moving.values[here].mean()).abs()) > 1e-3


def test_a_solid_circle_has_the_area_of_its_radius_and_a_hollow_one_less() -> None:
    areas = {
        hollow: [float(pair.fixed.values.mean()) for pair in ShapePairs(64, hollow=hollow).first(12)] for hollow in (False, True)
    }
    assert all(0.5 * one > other - one + one * 0.4 for one, other in zip(areas[False], areas[True], strict=True))
    assert all(0.03 < area < math.pi * 0.3**2 + 0.02 for area in areas[False])


def test_the_noise_of_shapes_is_as_strong_as_asked() -> None:
    clean, noisy = (ShapePairs(64, noise=noise).draw(seeded()).fixed.values for noise in (0.0, 0.1))
    assert float((noisy - clean).std()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ShapePairs(4), "size is out of range"),
        (lambda: ShapePairs(noise=-1), "noise is out of range"),
        (lambda: AnatomyPairs((48,)), r"two or three sizes of at least 8 voxels; got \[48\]"),
        (lambda: AnatomyPairs(classes=1), "classes is out of range"),
        (lambda: AnatomyPairs(roughness=0), "roughness is out of range"),
        (lambda: AnatomyPairs(bias=-1), "bias is out of range"),
    ],
)
def test_options_out_of_range_are_refused(make: object, match: str) -> None:
    with pytest.raises(InputError, match=match):
        make()  # type: ignore[operator]
