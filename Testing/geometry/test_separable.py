from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from RegistrationNetLib.geometry.separable import (
    antialiasing_matrix,
    apply_along_axes,
    blur_matrix,
    bspline_change_matrix,
    bspline_matrix,
    coarsening_matrix,
    interpolation_matrix,
    on,
    replicating_blur_matrix,
    resize_matrix,
)

MODE = {2: "bilinear", 3: "trilinear"}
SHAPES = [((9, 7), (5, 13)), ((1, 6), (4, 1)), ((6, 9, 7), (11, 4, 7)), ((8, 1, 5), (3, 2, 5)), ((4, 4, 4), (1, 9, 2))]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_one_matrix_per_axis_equals_the_tensor_product(shape: tuple[int, ...], out: tuple[int, ...]) -> None:
    values = noise(2, 3, *shape)
    before = values.clone()
    matrices = [noise(new, old) for new, old in zip(out, shape, strict=True)]
    letters = "ijk"[: len(shape)], "xyz"[: len(shape)]
    products = ",".join(new + old for old, new in zip(*letters, strict=True))
    expected = torch.einsum(f"bc{letters[0]},{products}->bc{letters[1]}", values, *matrices)
    torch.testing.assert_close(apply_along_axes(values, matrices), expected)
    assert torch.equal(values, before)


def test_transposed_lattice_gives_the_same_as_its_copy() -> None:
    values = noise(1, 2, 4, 5, 6)
    matrices = [noise(3, size) for size in (6, 5, 4)]
    strided = values.permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(apply_along_axes(strided, matrices), apply_along_axes(strided.contiguous(), matrices))


def test_gradient_of_apply_along_axes_is_exact() -> None:
    matrices = [noise(3, 4), noise(5, 2), noise(2, 3)]
    assert torch.autograd.gradcheck(lambda values: apply_along_axes(values, matrices), noise(1, 2, 4, 2, 3).requires_grad_())


def test_matrices_as_tensors_share_no_memory_with_the_cache() -> None:
    (tensor,) = on([blur_matrix(5, 1.0, 3)], noise(1))
    tensor.zero_()
    assert blur_matrix(5, 1.0, 3).sum() > 1


def test_matrices_follow_dtype_of_the_values() -> None:
    assert on([blur_matrix(5, 1.0, 3)], torch.zeros(1, dtype=torch.float32))[0].dtype == torch.float32


@pytest.mark.parametrize(("size", "sigma_vox", "taps"), [(12, 1.3, 7), (5, 2.0, 9), (3, 0.7, 11), (6, 0.0, 5)])
def test_blur_equals_convolution_with_zero_padding(size: int, sigma_vox: float, taps: int) -> None:
    weights = torch.exp(-0.5 * (torch.arange(taps, dtype=torch.float64) - taps // 2).square() / max(sigma_vox, 1e-6) ** 2)
    weights /= weights.sum()
    signal = noise(1, 1, size)
    expected = F.conv1d(signal, weights[None, None], padding=taps // 2)
    blurred = signal @ torch.as_tensor(blur_matrix(size, sigma_vox, taps)).T
    torch.testing.assert_close(blurred, expected)


@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_plain_resize_equals_torch_interpolate_between_edges(shape: tuple[int, ...], out: tuple[int, ...]) -> None:
    values = noise(1, 2, *shape)
    matrices = on([resize_matrix(new, old, smooth=False) for new, old in zip(out, shape, strict=True)], values)
    expected = F.interpolate(values, size=out, mode=MODE[len(shape)], align_corners=False)
    torch.testing.assert_close(apply_along_axes(values, matrices), expected)


@pytest.mark.parametrize(("shape", "out"), SHAPES)
def test_interpolation_equals_torch_interpolate_between_centres(shape: tuple[int, ...], out: tuple[int, ...]) -> None:
    values = noise(1, 2, *shape)
    matrices = on([interpolation_matrix(new, old) for new, old in zip(out, shape, strict=True)], values)
    expected = F.interpolate(values, size=out, mode=MODE[len(shape)], align_corners=True)
    torch.testing.assert_close(apply_along_axes(values, matrices), expected)


@pytest.mark.parametrize("size_in", [1, 2, 7, 40, 41])
@pytest.mark.parametrize("size_out", [1, 2, 7, 13, 60])
def test_smooth_resize_keeps_a_constant(size_in: int, size_out: int) -> None:
    np.testing.assert_allclose(resize_matrix(size_out, size_in).sum(axis=1), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ratio", [2, 3, 5])
def test_smooth_resize_keeps_what_the_coarse_lattice_can_hold_and_drops_the_rest(ratio: int) -> None:
    coarse = 24
    position = (np.arange(coarse * ratio) + 0.5) / ratio
    slow = np.cos(2 * np.pi * position / 12)
    aliasing = np.cos(2 * np.pi * position * 0.96)
    resize, interior = resize_matrix(coarse, coarse * ratio), slice(3, -3)
    assert np.abs(resize @ aliasing)[interior].max() < 0.05
    amplitude = (resize @ slow)[interior] @ slow_on(coarse)[interior] / (slow_on(coarse)[interior] ** 2).sum()
    assert 0.95 < amplitude < 1.0


def slow_on(coarse: int) -> np.ndarray:
    return np.cos(2 * np.pi * (np.arange(coarse) + 0.5) / 12)


def test_plain_resize_does_alias() -> None:
    aliasing = np.cos(2 * np.pi * (np.arange(72) + 0.5) / 3 * 0.96)
    assert np.abs(resize_matrix(24, 72, smooth=False) @ aliasing).max() > 0.5


def test_smooth_resize_to_a_finer_lattice_does_not_blur() -> None:
    np.testing.assert_array_equal(resize_matrix(11, 6), resize_matrix(11, 6, smooth=False))


@pytest.mark.parametrize("intervals", [1, 2, 5])
@pytest.mark.parametrize("size_out", [2, 9, 33])
def test_bspline_equals_the_recursion_of_cox_and_de_boor(size_out: int, intervals: int) -> None:
    @cache
    def basis(position: float, first_knot: int, degree: int) -> float:
        if degree == 0:
            return float(first_knot <= position < first_knot + 1)
        left = (position - first_knot) / degree * basis(position, first_knot, degree - 1)
        right = (first_knot + degree + 1 - position) / degree * basis(position, first_knot + 1, degree - 1)
        return left + right

    positions = np.linspace(0, intervals, size_out)
    expected = [[basis(float(x), i - 3, 3) for i in range(intervals + 3)] for x in positions]
    np.testing.assert_allclose(bspline_matrix(size_out, intervals), expected, atol=1e-12)


@pytest.mark.parametrize("intervals", [1, 4])
def test_bspline_sums_to_1_and_reproduces_a_line(intervals: int) -> None:
    matrix = bspline_matrix(17, intervals)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    line = (np.arange(intervals + 3) - 1) / intervals
    np.testing.assert_allclose(matrix @ line, np.linspace(0, 1, 17), atol=1e-12)


def test_bspline_has_continuous_second_derivative() -> None:
    intervals, per_interval = 4, 200
    step = 1 / per_interval
    curves = bspline_matrix(intervals * per_interval + 1, intervals)
    second = np.diff(curves, n=2, axis=0) / step**2
    # The third derivative of a cubic B-spline is at most 3, so a continuous second derivative changes by at most 3 steps.
    assert np.abs(np.diff(second, axis=0)).max() < 3.01 * step


@pytest.mark.parametrize("size_in", [1, 2, 9, 30])
def test_coarsening_keeps_constants_and_the_first_and_last_point_of_a_linear_lattice(size_in: int) -> None:
    matrix = coarsening_matrix(5, size_in)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    if size_in <= 5:
        np.testing.assert_array_equal(matrix, interpolation_matrix(5, size_in))


def test_coarsening_does_not_alias() -> None:
    aliasing = np.cos(2 * np.pi * np.arange(73) / 3 * 0.96)
    assert np.abs(coarsening_matrix(25, 73) @ aliasing)[3:-3].max() < 0.05
    assert np.abs(interpolation_matrix(25, 73) @ aliasing).max() > 0.5


def test_antialiasing_blurs_only_what_is_sampled_coarsely() -> None:
    np.testing.assert_array_equal(antialiasing_matrix(6, 0.8), np.eye(6))
    np.testing.assert_allclose(antialiasing_matrix(6, 1 + 1e-12), np.eye(6), atol=1e-12)
    spread = [np.trace(antialiasing_matrix(30, step)) for step in (1.5, 2.0, 4.0)]
    assert spread == sorted(spread, reverse=True)


@pytest.mark.parametrize("intervals", [1, 3])
def test_splines_on_twice_the_intervals_keep_the_curve(intervals: int) -> None:
    coefficients = noise(intervals + 3).numpy()
    finer = bspline_change_matrix(2 * intervals, intervals) @ coefficients
    np.testing.assert_allclose(bspline_matrix(41, 2 * intervals) @ finer, bspline_matrix(41, intervals) @ coefficients, atol=1e-9)


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("sigma_vox", [0.4, 1.3])
def test_a_replicating_blur_is_that_of_the_line_with_its_ends_repeated(size: int, sigma_vox: float) -> None:
    line, reach = np.random.default_rng(0).random(size), 30
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma_vox) ** 2)
    expected = np.convolve(np.pad(line, reach, mode="edge"), weights / weights.sum(), mode="valid")
    np.testing.assert_allclose(replicating_blur_matrix(size, sigma_vox) @ line, expected, atol=1e-4)


@pytest.mark.parametrize(("size_out", "size_in"), [(23, 181), (46, 181), (91, 181), (300, 512), (2, 9)])
def test_no_weight_is_so_small_that_the_processor_stumbles(size_out: int, size_in: int) -> None:
    """Of denormal numbers, that is, below 1e-38 in single precision."""
    for matrix in (coarsening_matrix(size_out, size_in), resize_matrix(size_out, size_in)):
        assert np.abs(matrix[matrix != 0]).min() > 1e-30
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
