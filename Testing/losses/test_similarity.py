from __future__ import annotations

import itertools
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.losses.similarity import (
    LNCC,
    MEASURES,
    MINDSSC,
    NCC,
    SSD,
    Measure,
    MutualInformation,
    SquaredLNCC,
    measure_named,
)

SHAPES = [(2, 1, 12, 9, 11), (1, 1, 14, 17)]
SMALL = [(2, 1, 5, 4, 6), (1, 2, 6, 7)]
EVERY = [LNCC(1.5), SquaredLNCC(1.0, stride_vox=2), NCC(), SSD(), MINDSSC(1, 1), MutualInformation(8)]


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("icon_registration").losses


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two correlated images inside (0, 1) that need gradients."""
    first = 0.1 + 0.8 * uniform(*shape, dtype=dtype)
    second = 0.1 + 0.4 * (first - 0.1) + 0.4 * uniform(*shape, seed=1, dtype=dtype)
    return first.requires_grad_(), second.requires_grad_()


def mask_for(shape: tuple[int, ...]) -> Tensor:
    return uniform(shape[0], 1, *shape[2:], seed=2) > 0.4


def assert_same_with_gradients(ours: Tensor, theirs: Tensor, images: tuple[Tensor, Tensor], tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    for one, other in zip(torch.autograd.grad(ours, images), torch.autograd.grad(theirs, images), strict=True):
        assert float((one - other).norm() / other.norm()) < 10 * tolerance


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["LNCC", "SquaredLNCC"])
@pytest.mark.parametrize("sigma", [2, 5])
def test_lncc_and_its_gradients_equal_the_published_code(
    oracle: ModuleType, shape: tuple[int, ...], masked: bool, name: str, sigma: int
) -> None:
    images = pair(shape)
    mask = [mask_for(shape)] if masked else []
    ours = {"LNCC": LNCC, "SquaredLNCC": SquaredLNCC}[name](sigma).loss(*images, *mask)
    assert_same_with_gradients(ours, getattr(oracle, name)(sigma)(*images, *mask), images, 1e-6)


@pytest.mark.parametrize("name", ["LNCC", "SquaredLNCC"])
def test_lncc_over_an_empty_background_equals_the_published_code(oracle: ModuleType, name: str) -> None:
    first, second = (image.detach() for image in pair((1, 1, 14, 9, 20)))
    first[..., :13] = second[..., :11] = 0
    images = (first.requires_grad_(), second.requires_grad_())
    ours = {"LNCC": LNCC, "SquaredLNCC": SquaredLNCC}[name](2).loss(*images)
    assert_same_with_gradients(ours, getattr(oracle, name)(2)(*images), images, 1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("radius", "dilation"), [(2, 2), (1, 3), (2, 1)])
def test_mind_and_its_gradients_equal_the_published_code(oracle: ModuleType, masked: bool, radius: int, dilation: int) -> None:
    images = pair(SHAPES[0], torch.float32)
    mask = [mask_for(SHAPES[0])] if masked else []
    ours = MINDSSC(radius, dilation).loss(*images, *mask)
    assert_same_with_gradients(ours, oracle.MINDSSC(radius, dilation)(*images, *mask), images, 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["NCC", "SSD"])
def test_ncc_and_ssd_equal_the_published_code(oracle: ModuleType, shape: tuple[int, ...], name: str) -> None:
    images = pair(shape)
    assert_same_with_gradients({"NCC": NCC, "SSD": SSD}[name]().loss(*images), getattr(oracle, name)()(*images), images, 1e-8)


@pytest.mark.parametrize("measure", [LNCC(3), SquaredLNCC(3), NCC(), SSD()])
def test_float32_equals_the_published_code_to_1e_5(oracle: ModuleType, measure: Measure) -> None:
    images = pair(SHAPES[0], torch.float32)
    options = [3] if isinstance(measure, LNCC) else []
    theirs = getattr(oracle, type(measure).__name__)(*options)(*images)
    assert_same_with_gradients(measure.loss(*images), theirs, images, 1e-5)


def slow_blur(image: Tensor, sigma: float, taps: int) -> Tensor:
    offsets = torch.arange(taps, dtype=image.dtype) - taps // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    dim = image.dim() - 2
    for axis in range(dim):
        weights = (kernel / kernel.sum()).view(1, 1, *(taps if axis == one else 1 for one in range(dim)))
        image = (F.conv3d if dim == 3 else F.conv2d)(image, weights, padding="same")
    return image


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("sigma", "taps"), [(2.0, 9), (1.6, 7), (1.4, 7), (5.0, 21)])
def test_lncc_equals_convolution_with_the_nearest_odd_number_of_taps(shape: tuple[int, ...], sigma: float, taps: int) -> None:
    first, second = pair(shape)
    mean, other = slow_blur(first, sigma, taps), slow_blur(second, sigma, taps)
    covariance = slow_blur(first * second, sigma, taps) - mean * other
    variances = [torch.relu(slow_blur(i * i, sigma, taps) - m * m) + 1e-3 for i, m in ((first, mean), (second, other))]
    expected = 1 - (covariance / (variances[0] * variances[1]).sqrt()).mean()
    assert_same_with_gradients(LNCC(sigma, epsilon=1e-3).loss(first, second), expected, (first, second), 1e-10)


def slow_descriptor(image: Tensor, radius: int, dilation: int) -> Tensor:
    """MIND-SSC by clamped indexing, straight from its definition."""
    shape = image.shape[2:]
    places = torch.stack(torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij"))
    highest = torch.tensor(shape).view(-1, *(1,) * len(shape)) - 1

    def at(values: Tensor, where: Tensor) -> Tensor:
        return values[(slice(None), slice(None), *torch.minimum(where.clamp_min(0), highest))]

    steps = [sign * dilation * torch.eye(len(shape), dtype=torch.long)[axis] for axis in range(len(shape)) for sign in (1, -1)]
    distances = []
    for one, two in itertools.combinations(steps, 2):
        if not torch.any(one + two):
            continue
        shifted = [at(image, places + step.view(-1, *(1,) * len(shape))) for step in (one, two)]
        squared = (shifted[0] - shifted[1]) ** 2
        patch = itertools.product(range(-radius, radius + 1), repeat=len(shape))
        boxed = [at(squared, places + torch.tensor(offset).view(-1, *(1,) * len(shape))) for offset in patch]
        distances.append(torch.stack(boxed).mean(0))
    stacked = torch.cat(distances, dim=1)
    stacked = stacked - stacked.amin(1, keepdim=True)
    spread = stacked.mean(1, keepdim=True)
    return torch.exp(-stacked / spread.clamp(float(spread.mean()) * 1e-3, float(spread.mean()) * 1e3))


@pytest.mark.parametrize("shape", [(2, 1, 6, 5, 7), (2, 1, 9, 8)])
@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 1)])
def test_mind_descriptor_equals_its_definition_up_to_the_order_of_channels(
    shape: tuple[int, ...], radius: int, dilation: int
) -> None:
    image = uniform(*shape)
    descriptor = MINDSSC(radius, dilation).descriptor(image)
    assert descriptor.shape[1] == {3: 12, 2: 4}[len(shape) - 2]
    torch.testing.assert_close(descriptor.sort(1)[0], slow_descriptor(image, radius, dilation).sort(1)[0])


def test_mind_is_minus_the_mean_squared_difference_of_descriptors() -> None:
    first, second = uniform(1, 1, 9, 8), uniform(1, 1, 9, 8, seed=1)
    expected = -((MINDSSC().descriptor(first) - MINDSSC().descriptor(second)) ** 2).mean()
    torch.testing.assert_close(MINDSSC().similarity(first, second), expected)


def cubic_bspline(distance: np.ndarray) -> np.ndarray:
    x = np.abs(distance)
    return np.where(x < 1, (4 - 6 * x**2 + 3 * x**3) / 6, np.where(x < 2, (2 - x) ** 3 / 6, 0.0))


@pytest.mark.parametrize("bins", [8, 32])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_mutual_information_equals_a_dense_parzen_histogram(shape: tuple[int, ...], bins: int) -> None:
    first, second = (image.detach() for image in pair(shape))
    first = first * 1.6 - 0.3  # some of it outside [0, 1]
    windows = [
        cubic_bspline(1 + np.clip(image.numpy().reshape(-1, 1), 0, 1) * (bins - 3) - np.arange(bins)) for image in (first, second)
    ]
    p = windows[0].T @ windows[1] / len(windows[0])
    outer = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    expected = (p[p > 0] * np.log(p[p > 0] / outer[p > 0])).sum()
    assert float(MutualInformation(bins).similarity(first, second)) == pytest.approx(expected, abs=1e-12)


def test_a_fitted_histogram_has_a_voxel_for_each_cell() -> None:
    first, second = torch.rand(2, 1, 1, 20, 20)
    fitted = MutualInformation(128, is_fitted=True)
    assert torch.equal(fitted.similarity(first, second), MutualInformation(20).similarity(first, second))
    few = torch.zeros(1, 1, 20, 20)
    few[..., :5, :5] = 1
    assert torch.equal(fitted.similarity(first, second, few), MutualInformation(8).similarity(first, second, few))
    assert torch.equal(
        MutualInformation(16, is_fitted=True).similarity(first, second), MutualInformation(16).similarity(first, second)
    )


def test_mutual_information_over_many_chunks_is_that_of_one() -> None:
    tile = uniform(1, 1, 10, 10), uniform(1, 1, 10, 10, seed=1)
    once = MutualInformation(12).similarity(*tile)
    many = MutualInformation(12).similarity(*(image.repeat(1, 1, 20, 20) for image in tile))
    torch.testing.assert_close(many, once)


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
@pytest.mark.parametrize("shape", SMALL)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_by_both_images_are_those_of_finite_differences(measure: Measure, shape: tuple[int, ...], masked: bool) -> None:
    mask = mask_for(shape) if masked else None
    assert torch.autograd.gradcheck(lambda a, b: measure.loss(a, b, mask), pair(shape), fast_mode=True)


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
def test_nothing_is_tracked_where_no_gradient_is_asked_for(measure: Measure) -> None:
    first, second = pair(SMALL[0])
    assert not measure.loss(first.detach(), second.detach()).requires_grad
    with torch.no_grad():
        assert not measure.loss(first, second).requires_grad


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
def test_a_gradient_by_one_image_alone_is_the_same(measure: Measure) -> None:
    first, second = pair(SMALL[0])
    both = torch.autograd.grad(measure.loss(first, second), (first, second))
    torch.testing.assert_close(torch.autograd.grad(measure.loss(first, second.detach()), first)[0], both[0])
    torch.testing.assert_close(torch.autograd.grad(measure.loss(first.detach(), second), second)[0], both[1])


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
def test_constant_images_give_finite_values_and_gradients(measure: Measure) -> None:
    flat = torch.full(SMALL[0], 0.5, requires_grad=True)
    loss = measure.loss(flat, pair(SMALL[0], torch.float32)[0].detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
@pytest.mark.parametrize("masked", [False, True])
def test_a_prepared_comparison_gives_the_same_loss_and_gradient_each_time(measure: Measure, masked: bool) -> None:
    fixed = pair(SMALL[0])[1].detach()
    mask = mask_for(SMALL[0]) if masked else None
    comparison = measure.against(fixed, mask)
    for seed in (3, 4):
        warped = uniform(*SMALL[0], seed=seed).requires_grad_()
        loss, again = measure.loss(warped, fixed, mask), comparison.loss(warped)
        torch.testing.assert_close(again, loss, rtol=0, atol=0)
        torch.testing.assert_close(torch.autograd.grad(again, warped), torch.autograd.grad(loss, warped), rtol=0, atol=0)


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
def test_images_and_mask_are_left_as_they_were(measure: Measure) -> None:
    first, second = pair(SMALL[0])
    mask = mask_for(SMALL[0])
    before = [image.detach().clone() for image in (first, second, mask)]
    measure.loss(first, second, mask).backward()
    for image, was in zip((first, second, mask), before, strict=True):
        torch.testing.assert_close(image.detach(), was, rtol=0, atol=0)


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_is_most_similar_to_itself_and_loss_is_the_distance_from_the_highest(
    measure: Measure, shape: tuple[int, ...]
) -> None:
    first, second = (image.detach() for image in pair(shape))
    itself, other = measure.similarity(first, first), measure.similarity(first, second)
    assert itself > other
    torch.testing.assert_close(measure.loss(first, second), measure.highest - other)
    if measure.name != "mi":
        assert float(itself) == pytest.approx(measure.highest, abs=0.01)


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
def test_each_measure_is_symmetric(measure: Measure) -> None:
    first, second = (image.detach() for image in pair(SHAPES[0]))
    torch.testing.assert_close(measure.similarity(first, second), measure.similarity(second, first))


def test_inverted_contrast_is_minus_one_for_correlation_and_one_for_its_square() -> None:
    image = uniform(*SHAPES[1]) - 0.5
    assert float(LNCC(3).similarity(-image, image)) == pytest.approx(-1, abs=0.01)
    assert float(SquaredLNCC(3).similarity(-image, image)) == pytest.approx(1, abs=0.01)
    assert float(NCC().similarity(-image, image)) == pytest.approx(-1)


def test_lncc_ignores_contrast_that_changes_from_place_to_place() -> None:
    image = uniform(1, 1, 60, 40)
    gain = torch.where(torch.arange(60) < 30, 0.3, 1.0).double().view(1, 1, 60, 1)
    inside = torch.zeros(1, 1, 60, 40)
    inside[:, :, 6:24, 6:-6] = inside[:, :, 36:54, 6:-6] = 1
    assert float(LNCC(2).similarity(gain * image + 0.5 * (1 - gain), image, inside)) > 0.999
    assert float(NCC().similarity(gain * image + 0.5 * (1 - gain), image, inside)) < 0.97


def test_mind_ignores_gain_and_offset() -> None:
    first, second = (image.detach() for image in pair(SHAPES[0]))
    torch.testing.assert_close(MINDSSC().loss(1 - 0.3 * first, second), MINDSSC().loss(first, second))


def test_mutual_information_ignores_which_intensity_stands_for_which_tissue() -> None:
    tissue = (uniform(1, 1, 60, 60) * 5).long()
    first, renamed = (
        torch.tensor(values, dtype=torch.float64)[tissue] for values in ((0, 0.2, 0.5, 0.7, 1), (0.6, 0.1, 0.9, 0.3, 0))
    )
    measure = MutualInformation(64)
    entropy = float(measure.similarity(first, first))
    assert entropy == pytest.approx(np.log(5), rel=0.02)
    assert float(measure.similarity(renamed, first)) == pytest.approx(entropy, rel=0.02)
    assert float(measure.similarity(1 - first, first)) == pytest.approx(entropy, rel=1e-9)


def test_mutual_information_of_unrelated_images_is_nearly_zero() -> None:
    assert 0 <= float(MutualInformation(8).similarity(uniform(1, 1, 200, 200), uniform(1, 1, 200, 200, seed=1))) < 0.002


@pytest.mark.parametrize(
    ("measure", "changed"),
    [
        (LNCC(), LNCC(4)),
        (LNCC(), LNCC(epsilon=1e-3)),
        (LNCC(), LNCC(stride_vox=2)),
        (MINDSSC(), MINDSSC(radius=1)),
        (MINDSSC(), MINDSSC(dilation=1)),
        (MutualInformation(), MutualInformation(16)),
    ],
)
def test_every_option_changes_the_value(measure: Measure, changed: Measure) -> None:
    images = [image.detach() for image in pair(SHAPES[0])]
    assert abs(float(measure.loss(*images)) - float(changed.loss(*images))) > 1e-4


@pytest.mark.parametrize("measure", EVERY, ids=lambda measure: measure.name)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_a_full_mask_of_any_type_and_one_sample_changes_nothing(measure: Measure, dtype: torch.dtype) -> None:
    first, second = (image.detach() for image in pair(SHAPES[0]))
    full = (0.5 * torch.ones(1, 1, *SHAPES[0][2:]) if dtype.is_floating_point else torch.ones(1, 1, *SHAPES[0][2:])).to(dtype)
    torch.testing.assert_close(measure.loss(first, second, full), measure.loss(first, second))


@pytest.mark.parametrize("measure", [NCC(), SSD(), MutualInformation()], ids=lambda measure: measure.name)
def test_what_lies_outside_the_mask_has_no_influence(measure: Measure) -> None:
    first, second = (image.detach() for image in pair(SHAPES[0]))
    mask = mask_for(SHAPES[0])
    torch.testing.assert_close(measure.loss(torch.where(mask, first, 0.9), second, mask), measure.loss(first, second, mask))


@pytest.mark.parametrize("measure", [LNCC(1.0), MINDSSC(1, 1)], ids=lambda measure: measure.name)
def test_a_mask_selects_places_of_local_measures_but_not_their_surroundings(measure: Measure) -> None:
    first, second = (image.detach() for image in pair((1, 1, 20, 20)))
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., :10, :] = 1
    near, far = first.clone(), first.clone()
    near[..., 10, :] = 0.9
    far[..., 16:, :] += 0.01
    difference = [float(abs(measure.loss(one, second, mask) - measure.loss(first, second, mask))) for one in (near, far)]
    assert difference[0] > 1e-3
    assert difference[1] < 1e-9


# MIND is left out: the mean over the batch clamps its variance, as published.
@pytest.mark.parametrize("measure", [one for one in EVERY if one.name != "mind"], ids=lambda measure: measure.name)
def test_samples_count_alike_however_large_their_masks_and_an_empty_one_counts_zero(measure: Measure) -> None:
    first, second = (image.detach() for image in pair(SHAPES[0]))
    mask = mask_for(SHAPES[0])
    mask[1, :, 3:] = False
    alone = [measure.similarity(first[i : i + 1], second[i : i + 1], mask[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(measure.similarity(first, second, mask), (alone[0] + alone[1]) / 2)
    mask[1] = False
    torch.testing.assert_close(measure.similarity(first, second, mask), alone[0] / 2)


def test_images_of_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"warped and fixed differ in shape.*\[1, 1, 4, 5\] and \[1, 1, 4, 4\]"):
        SSD().loss(torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("fixed", [torch.zeros(4, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.int16)])
def test_a_fixed_image_without_axes_or_of_integers_is_refused(fixed: Tensor) -> None:
    with pytest.raises(InputError, match="fixed must be a floating-point image"):
        SSD().against(fixed)


@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (4, 4), (3, 1, 4, 4), (2, 2, 4, 4)])
def test_a_mask_that_does_not_fit_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="The mask does not fit fixed"):
        SSD().against(torch.zeros(2, 2, 4, 4), torch.ones(shape))


@pytest.mark.parametrize("sigma", [0, -1, 0.4, float("nan"), float("inf")])
def test_a_window_too_narrow_is_refused(sigma: float) -> None:
    with pytest.raises(InputError, match=r"sigma_vox must be at least 0\.5"):
        LNCC(sigma)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, float("nan")])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(InputError, match="epsilon must be above 0"):
        SquaredLNCC(epsilon=epsilon)


@pytest.mark.parametrize("stride", [0, 1.5])
def test_a_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(InputError, match="stride_vox must be a whole number of voxels, at least 1"):
        LNCC(stride_vox=stride)


@pytest.mark.parametrize("options", [{"radius": 0}, {"dilation": 0}, {"radius": 1.5}])
def test_a_mind_radius_or_dilation_below_one_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} must be a whole number of voxels"):
        MINDSSC(**options)


@pytest.mark.parametrize("bins", [3, 257, 32.0])
def test_bins_out_of_range_are_refused(bins: int) -> None:
    with pytest.raises(InputError, match="bins must be a whole number from 4 to 256"):
        MutualInformation(bins)


def test_measures_are_found_by_name_with_their_options() -> None:
    assert list(MEASURES) == ["lncc", "lncc2", "ncc", "ssd", "mind", "mi"]
    assert measure_named("lncc", sigma_vox=4) == LNCC(4)
    assert [measure_named(name).name for name in MEASURES] == list(MEASURES)


def test_an_unknown_measure_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"no similarity measure 'psnr'\. Choose one of lncc, lncc2, ncc, ssd, mind, mi"):
        measure_named("psnr")


@pytest.mark.parametrize(("name", "takes"), [("lncc", "sigma_vox, epsilon, stride_vox"), ("ncc", "none")])
def test_an_unknown_option_is_refused_with_the_choices(name: str, takes: str) -> None:
    with pytest.raises(InputError, match=rf"{name} has no option bins\. It takes {takes}"):
        measure_named(name, bins=3)


@pytest.mark.parametrize(("faintness", "is_clamped"), [(0.08, False), (0.01, True)])
def test_the_descriptor_is_blind_to_contrast_down_to_a_thousandth_of_the_mean_variance(
    faintness: float, is_clamped: bool
) -> None:
    image = uniform(1, 1, 40, 24)
    faint = image.clone()
    faint[:, :, 20:] *= faintness
    away_from_the_seam = (slice(None), slice(None), slice(30, None))
    found, expected = (MINDSSC().descriptor(one)[away_from_the_seam] for one in (faint, image))
    assert torch.allclose(found, expected, atol=1e-6) is not is_clamped


def test_intensities_outside_the_range_of_mutual_information_have_no_gradient() -> None:
    warped = (1.4 * uniform(1, 1, 20, 20) - 0.2).requires_grad_()
    (gradient,) = torch.autograd.grad(MutualInformation(8).loss(warped, uniform(1, 1, 20, 20, seed=1)), warped)
    is_outside = (warped < 0) | (warped > 1)
    assert is_outside.any()
    assert not gradient[is_outside].any()
    assert (gradient[~is_outside] != 0).double().mean() > 0.9
