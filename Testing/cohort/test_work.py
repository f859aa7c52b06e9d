"""What a pair of a plan gives to the registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from RegistrationNetLib.cohort import work
from RegistrationNetLib.cohort.plan import listed_plan
from RegistrationNetLib.cohort.records import begin_run
from RegistrationNetLib.cohort.work import carry_out

from .small import QUICK, images, listed


def test_a_pair_is_registered_with_what_keeps_its_shape_and_then_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed, moving = images(tmp_path, 2)
    bone = sitk.ReadImage(str(tmp_path / fixed)) > 700
    sitk.WriteImage(bone, str(tmp_path / "bone.nii.gz"))
    assert 0 < np.count_nonzero(sitk.GetArrayFromImage(bone)) < bone.GetNumberOfPixels()
    heard: list[dict[str, Any]] = []
    register = work.register

    def listening(**given: Any) -> Any:
        heard.append(given)
        return register(**given)

    monkeypatch.setattr(work, "register", listening)
    setting = begin_run(tmp_path / "out", "run")
    pair = {"fixed": fixed, "moving": moving, "rigid": "bone.nii.gz"}
    plain = listed_plan(listed(tmp_path, [{**pair, **QUICK, "name": "plain"}]), {}).pairs[0]
    assert carry_out(plain, setting).error == ""
    row = {**pair, "previous": "out/pairs/plain/transform.h5", "repeats": "0", "name": "corrected"}
    corrected = listed_plan(listed(tmp_path, [row]), {}).pairs[0]
    assert carry_out(corrected, setting).error == ""
    assert heard[0]["rigid"] == tmp_path / "bone.nii.gz"
    assert "previous" not in heard[0]
    assert heard[1]["previous"] == tmp_path / "out" / "pairs" / "plain" / "transform.h5"
    assert set(corrected.files) == {"fixed", "moving", "rigid", "previous", "previous_inverse"}
