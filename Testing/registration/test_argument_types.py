"""Slips in a call from Python are told with what the argument must be."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib import register
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.registration.argument_types import RULES, check_types

from ..volumes import noise

SLIPS = [
    ("model", None, "model must be a name"),
    ("refine", 3, "refine must be a name .str. or None"),
    ("steps", "3", r"steps must be a whole number \(int\) or None; got '3' \(str\)"),
    ("steps", 2.5, r"steps must be a whole number .*; got 2.5 \(float\)"),
    ("steps", True, "steps must be a whole number"),
    ("similarity", None, "similarity must be a name"),
    ("fixed_modality", 1, "fixed_modality must be a name"),
    ("moving_modality", ("ct",), "moving_modality must be a name"),
    ("initial", np.eye(4), "initial must be the path of a transform file.*got a ndarray.*SetMatrix"),
    ("landmark_labels", "tip", "landmark_labels must be a list or tuple of texts, or None"),
    ("landmarks", None, "landmarks must be a name"),
    ("tolerance", 0, "tolerance must be a number of mm above 0"),
    ("previous", 3, "previous must be a Registration, the path of a transform file, a SimpleITK transform, or None"),
    ("align", "rigid", r'align must be a list or tuple of stages, or None; got .rigid.*align=\["rigid"\]'),
    ("align", [1], "align must be a list or tuple of stages"),
    ("device", 0, "device must be a name"),
    ("weights", 3, "weights must be the path of a file, or None"),
    ("smoothness", "1", "smoothness must be a number above 0"),
    ("smoothness", float("nan"), "smoothness must be a number above 0"),
    ("smoothness", 0, "smoothness must be a number above 0"),
    ("mirrored", "no", "mirrored must be True or False"),
    ("conserve_mass", 1, "conserve_mass must be True or False"),
    ("resolution", "fine", "resolution must be a number above 0, or None; got 'fine'"),
    ("repeats", 1.5, "repeats must be a whole number \\(int\\) or None"),
    ("seed", "x", "seed must be a whole number .int. from 0"),
    ("seed", -1, "seed must be a whole number"),
    ("progress", None, "progress must be a function that takes a Progress; got None .*Leave it out"),
]


@pytest.mark.parametrize(("name", "value", "message"), SLIPS)
def test_a_slip_is_told(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        register(noise(), noise(seed=1), **{name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"steps": np.int64(3), "seed": np.uint8(7), "smoothness": np.float32(2)},
        {"steps": None, "align": (), "initial": Path("t.h5"), "weights": "w.trch"},
        {"align": ["rigid"], "initial": sitk.Transform(3, sitk.sitkIdentity), "smoothness": 2},
    ],
)
def test_what_is_meant_is_taken(given: dict[str, object]) -> None:
    check_types(given)


def test_every_option_has_a_rule() -> None:
    checked_elsewhere = {"fixed", "moving", "rigid", "keep_volume"} | {
        f"{side}_{what}" for side in ("fixed", "moving") for what in ("mask", "labels", "landmarks")
    }
    assert set(inspect.signature(register).parameters) - checked_elsewhere == set(RULES)
    assert {name for name, _, _ in SLIPS} == set(RULES)
