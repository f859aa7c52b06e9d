"""A mask as text."""

import json

import numpy as np
import pytest

from RegistrationNetLib.slicer_bridge.packed_mask import packed, unpacked


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (40, 41, 39)])
def test_a_mask_comes_back_as_it_was(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    mask, world = rng.random(shape) < 0.4, rng.normal(size=(4, 4))
    back = unpacked(json.loads(json.dumps(packed(mask, world.tolist()))))
    assert np.array_equal(back.values, mask)
    assert back.values.dtype == np.uint8
    assert np.array_equal(back.world_from_index, world)


def test_a_body_takes_some_kilobytes() -> None:
    index = np.indices((40, 40, 40)) - 20
    assert len(json.dumps(packed((index**2).sum(axis=0) < 200, np.eye(4).tolist()))) < 5000
