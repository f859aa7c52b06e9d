"""Evidence made by hand, of a registration that fits, for tests of what is made of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from RegistrationNetLib.geometry.space import Grid
from RegistrationNetLib.quality.error_map import ExpectedError
from RegistrationNetLib.quality.evidence import Evidence
from RegistrationNetLib.quality.likeness import Pose

SHAPE = (10, 12, 14)
FITTING = ExpectedError(median=0.6, p95=1.1, max=1.8, share_above_voxel=0.0, share_above_3mm=0.0, bound_factor=2.5)


def evidence(*, dim: int = 3, spacing_mm: float = 4.0, **changed: Any) -> Evidence:
    """All of the lattice is body; `changed` replaces single fields."""
    shape = SHAPE[:dim]
    matrix = np.diag([spacing_mm] * dim + [1.0])
    matrix[:-1, :-1] = matrix[:-1, :-1][::-1]
    flat = np.zeros(shape)
    made: dict[str, Any] = {
        "grid": Grid(shape, matrix),
        "body": np.ones(shape, dtype=bool),
        "likeness": 0.9,
        "pose_score": 0.9,
        "other_pose": Pose((), (0,) * (dim - 1) + (3,), 0.3),
        "overlap": 1.0,
        "volume_factor": 1.0,
        "agreement": flat + 0.9,
        "ambiguity": flat + 50.0,
        "rim": flat,
        "bending_vox": flat + 0.2,
        "beyond_vox": flat,
        "spread_vox": flat + 0.1,
        "repeats_asked": 2,
        "repeat_failure": "",
        "repeats_off_mm": (0.4, 0.5),
        "repeats_fineness": 1.0,
        "body_mm": 160.0,
    }
    return Evidence(**{**made, **changed})
