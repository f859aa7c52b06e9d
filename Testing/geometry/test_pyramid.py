"""Coarser copies of an image are those of the whole operator, though made a few layers at a time."""

from __future__ import annotations

import pytest
import torch

from RegistrationNetLib.geometry import pyramid as module
from RegistrationNetLib.geometry.pyramid import coarsened, pyramid
from RegistrationNetLib.geometry.separable import apply_along_axes, coarsening_matrix, on


@pytest.mark.parametrize("layers", [1, 3, 100])
@pytest.mark.parametrize("shape", [(31, 20), (40, 9, 17)])
def test_a_coarser_image_is_that_of_the_whole_operator(
    shape: tuple[int, ...], layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAYERS_AT_A_TIME", layers)
    values = torch.rand(1, 2, *shape)
    coarse = [max(8, size // 2) for size in shape]
    matrices = on([coarsening_matrix(new, old) for new, old in zip(coarse, shape, strict=True)], values)
    torch.testing.assert_close(coarsened(values, coarse), apply_along_axes(values, matrices), atol=2e-5, rtol=0)


def test_whole_numbers_become_floats() -> None:
    values = torch.randint(0, 1000, (1, 1, 20, 20), dtype=torch.int16)
    torch.testing.assert_close(coarsened(values, (10, 10)), coarsened(values.float(), (10, 10)))


def test_the_image_itself_is_not_copied() -> None:
    values = torch.rand(1, 1, 20, 20)
    images = pyramid(values, [(20, 20), (10, 10), (10, 10), (8, 8)])
    assert images[0] is values
    assert images[2] is images[1]
    assert [tuple(one.shape[2:]) for one in images] == [(20, 20), (10, 10), (10, 10), (8, 8)]
