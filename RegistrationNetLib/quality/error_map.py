"""The expected error of a registration at each voxel, in mm, and a bound below which 95 % of the errors lie.

The expected error is a power law of the evidence: its logarithm is linear in the features below, with coefficients fitted to
registrations whose truth is known (`trust.json`, made by `Testing/benchmarks/trust.py`; docs/trust.md tells of it). Errors and
lengths count in voxels of the lattice of the evidence, so that the law holds for images of any size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from ..geometry.space import grid_of, values_on
from .evidence import Evidence

Array = NDArray[np.floating]

MODEL_FILE = "trust.json"
# What is smaller than this counts as this, in voxels: no evidence is finer.
SMALLEST_VOX = 0.05
# What the error can only grow with; the first need repeats. "of the whole" is one number for the body.
REPEATED = ("spread", "spread of the whole", "fineness against repeats")
ALONE = (
    "ambiguity",
    "rim",
    "beyond",
    "disagreement",
    "bending",
    "ambiguity of the whole",
    "bending of the whole",
    "disagreement of the whole",
    "pose",
)


def features(evidence: Evidence) -> dict[str, Array]:
    """The evidence at each voxel [*shape], or of the whole [], as the law takes it."""
    local = {
        "ambiguity": np.log(evidence.ambiguity),
        "rim": evidence.rim,
        "disagreement": 1 - evidence.agreement,
        "bending": _log(evidence.bending_vox),
        "beyond": np.log1p(evidence.beyond_vox),
    }
    if evidence.spread_vox is not None:
        local["spread"] = _log(evidence.spread_vox)
    whole = {
        f"{name} of the whole": np.median(local[name][evidence.body])
        for name in ("ambiguity", "bending", "spread")
        if name in local
    }
    whole["disagreement of the whole"] = 1 - evidence.likeness
    whole["pose"] = evidence.pose_doubt
    whole["fineness against repeats"] = np.log(evidence.repeats_fineness)
    return {name: np.asarray(value, dtype=np.float64) for name, value in {**local, **whole}.items()}


def _log(length_vox: Array) -> Array:
    logarithm: Array = np.log(length_vox + SMALLEST_VOX)
    return logarithm


@dataclass(frozen=True)
class ErrorModel:
    """The law: `coefficients` by feature with the "constant", and the bound as a multiple of what is expected.

    Attributes:
        bound_factor: 95 % of the errors lie below this times the expected one.
    """

    coefficients: Mapping[str, float]
    bound_factor: float

    def expected_mm(self, evidence: Evidence) -> Array:
        """At each voxel of the evidence's lattice [*shape]."""
        found = features(evidence)
        logarithm = self.coefficients["constant"] + sum(
            weight * found[name] for name, weight in self.coefficients.items() if name != "constant"
        )
        expected: Array = np.exp(logarithm) * evidence.voxel_mm * np.ones(evidence.grid.shape)
        return expected


@lru_cache
def trust_facts() -> Mapping[str, Any]:
    """What `trust.json` holds: the laws, the limits of the verdict, and how both were found."""
    content: Mapping[str, Any] = json.loads(files(__package__).joinpath(MODEL_FILE).read_text(encoding="utf-8"))
    return content


def error_model(evidence: Evidence, facts: Mapping[str, Any] | None = None) -> ErrorModel:
    """The law for this evidence: there are two, with repeats and without. `facts` are those of `trust.json` if not others are given."""
    law = (facts or trust_facts())["error"]["without repeats" if evidence.spread_vox is None else "with repeats"]
    return ErrorModel(law["coefficients"], law["bound_factor"])


@dataclass(frozen=True)
class ExpectedError:
    """The expected error over fixed's body, in mm, and how large a share of the body exceeds a voxel, and 3 mm."""

    median: float
    p95: float
    max: float
    share_above_voxel: float
    share_above_3mm: float
    bound_factor: float


def error_image(evidence: Evidence, like: sitk.Image) -> sitk.Image:
    """The expected error in mm on the grid of `like`, the fixed image; float32."""
    expected = torch.from_numpy(error_model(evidence).expected_mm(evidence).astype(np.float32))[None, None]
    image = sitk.GetImageFromArray(values_on(expected, evidence.grid, grid_of(like))[0, 0].numpy())
    # The geometry of `like` itself, not that of its grid, which has rounded.
    image.CopyInformation(like)
    return image


def expected_error(evidence: Evidence, voxel_mm: float, facts: Mapping[str, Any] | None = None) -> ExpectedError:
    """The numbers of the map over the body; `voxel_mm` is the largest edge of fixed's voxels, `facts` as in `error_model`."""
    model = error_model(evidence, facts)
    values = model.expected_mm(evidence)[evidence.body]
    return ExpectedError(
        median=float(np.median(values)),
        p95=float(np.percentile(values, 95)),
        max=float(values.max()),
        share_above_voxel=float((values > voxel_mm).mean()),
        share_above_3mm=float((values > 3.0).mean()),
        bound_factor=model.bound_factor,
    )
