"""A mask as a few kilobytes of text, which travel in a message and are kept in an attribute of a node."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..io.nrrd import Volume


def packed(mask: NDArray[np.bool_], world_from_index: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The mask [D, H, W] and where it lies, as JSON has it."""
    bits = base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii")
    return {
        "shape": list(mask.shape),
        "world_from_index": [list(map(float, row)) for row in world_from_index],
        "bits": bits,
    }


def unpacked(described: Mapping[str, Any]) -> Volume:
    """The mask that `packed` has described: 1 inside and 0 outside, uint8."""
    shape = tuple(described["shape"])
    bits = np.frombuffer(zlib.decompress(base64.b64decode(described["bits"])), np.uint8)
    values = np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
    return Volume(values, np.array(described["world_from_index"], dtype=np.float64))
