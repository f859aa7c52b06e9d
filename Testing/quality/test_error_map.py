"""The law of the expected error: what makes more of it, by how much, and that it holds for images of any size."""

from __future__ import annotations

import math

import numpy as np
import pytest

from RegistrationNetLib.quality.error_map import error_model, trust_facts
from RegistrationNetLib.quality.evidence import Evidence

from .made_evidence import SHAPE, evidence

LAWS = {"with repeats": {}, "without repeats": {"spread_vox": None, "repeats_asked": 0}}


def median_mm(found: Evidence) -> float:
    return float(np.median(error_model(found).expected_mm(found)))


def test_work_finer_than_the_repeats_is_expected_to_be_nearer_by_the_power_of_the_law() -> None:
    power = trust_facts()["error"]["with repeats"]["coefficients"]["fineness against repeats"]
    assert 0 < power < 1
    ratio = median_mm(evidence(repeats_fineness=0.25)) / median_mm(evidence(repeats_fineness=1.0))
    assert ratio == pytest.approx(0.25**power)


def test_against_repeats_that_were_not_made_nothing_counts() -> None:
    fine, coarse = (median_mm(evidence(repeats_fineness=one, **LAWS["without repeats"])) for one in (0.25, 1.0))
    assert fine == coarse


@pytest.mark.parametrize("law", LAWS)
def test_more_is_expected_far_from_what_moving_shows(law: str) -> None:
    beyond = np.zeros(SHAPE)
    beyond[5:] = np.arange(1, 6)[:, None, None]
    expected = error_model(one := evidence(beyond_vox=beyond, **LAWS[law])).expected_mm(one)
    layers = expected.mean(axis=(1, 2))
    assert (np.diff(layers[5:]) > 0).all()
    assert layers[5] > layers[4] == pytest.approx(layers[0])


@pytest.mark.parametrize("law", LAWS)
def test_the_law_counts_in_voxels(law: str) -> None:
    one, twice = (evidence(spacing_mm=spacing, **LAWS[law]) for spacing in (4.0, 8.0))
    assert median_mm(twice) == pytest.approx(2 * median_mm(one))


def test_no_feature_makes_less_of_it() -> None:
    for law in trust_facts()["error"].values():
        assert min(value for name, value in law["coefficients"].items() if name != "constant") > 0
        assert math.isfinite(law["coefficients"]["constant"])
        assert law["bound_factor"] > 1
