"""BIDS folders as plans, and results under BIDS's names."""

import json
import os
from pathlib import Path

import pytest

from RegistrationNetLib.cohort.bids import Source, bids_plan, found_images, is_bids
from RegistrationNetLib.cohort.overview import write_overview
from RegistrationNetLib.cohort.records import begin_run, end_run, is_done
from RegistrationNetLib.errors import InputError, PlanError

from .small import images
from .works import pretend

FILES = (
    "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
    "sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz",
    "sub-01/ses-c/anat/sub-01_ses-c_run-1_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
    "derivatives/other/sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
)


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    folder = tmp_path / "bids"
    (name,) = images(tmp_path, 1)
    for file in FILES:
        add(folder, file, tmp_path / name)
    (folder / "dataset_description.json").write_text("{}")
    (tmp_path / "mni 152.nii.gz").write_bytes((tmp_path / name).read_bytes())
    return folder


def add(folder: Path, file: str, like: Path) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(like.read_bytes())


def test_each_session_goes_to_the_first_of_its_subject(bids: Path, tmp_path: Path) -> None:
    assert is_bids(bids)
    plan = bids_plan(Source(bids), "first-session", tmp_path / "out", {"steps": 3, "moving_modality": "other"})
    assert [pair.name for pair in plan.pairs] == [
        "sub-01_ses-b_from-sesbT1w_to-sesaT1w",
        "sub-01_ses-c_run-1_from-sescT1w_to-sesaT1w",
    ]
    for pair, moving in zip(plan.pairs, (FILES[1], FILES[3]), strict=True):
        assert pair.files == {"fixed": bids / FILES[0], "moving": bids / moving}
        assert pair.options == {"fixed_modality": "mr", "moving_modality": "other", "steps": 3}


def test_the_first_session_is_that_of_the_lowest_number(bids: Path, tmp_path: Path) -> None:
    for number in (9, 10, 11):
        add(bids, f"sub-03/ses-{number}/anat/sub-03_ses-{number}_T1w.nii.gz", bids / FILES[0])
    plan = bids_plan(Source(bids, select="sub-03"), "first-session", tmp_path / "out", {})
    assert [pair.name for pair in plan.pairs] == [f"sub-03_ses-{number}_from-ses{number}T1w_to-ses9T1w" for number in (10, 11)]


def test_a_data_set_that_others_have_made_is_no_place_for_results(bids: Path, tmp_path: Path) -> None:
    """Its description would be replaced by that of the results."""
    out = tmp_path / "out"
    with pytest.raises(InputError, match="bids is a data set of its own, .* Give one such as .*bids/derivatives/registrationnet"):
        bids_plan(Source(bids), "first-session", bids, {})
    plan = bids_plan(Source(bids), "first-session", out, {})
    write_overview(plan, out)
    assert bids_plan(Source(bids), "first-session", out, {}) == plan, "its own results are"
    for text in ('{"GeneratedBy": [{"Name": "fMRIPrep"}]}', "[]", "no JSON"):
        (out / "dataset_description.json").write_text(text)
        with pytest.raises(InputError, match="out is a data set of its own"):
            bids_plan(Source(bids), "first-session", out, {})


def test_each_image_goes_to_a_template(bids: Path, tmp_path: Path) -> None:
    template = tmp_path / "mni 152.nii.gz"
    plan = bids_plan(Source(bids), "template", tmp_path / "out", {}, template=template)
    assert [pair.name for pair in plan.pairs] == [
        "sub-01_ses-a_from-T1w_to-mni152", "sub-01_ses-b_from-T1w_to-mni152", "sub-01_ses-c_run-1_from-T1w_to-mni152",
        "sub-02_ses-a_from-T1w_to-mni152",
    ]  # fmt: skip
    assert {pair.files["fixed"] for pair in plan.pairs} == {template}


def test_images_are_chosen_by_suffix_and_entities(bids: Path) -> None:
    assert [one.path.name for one in found_images(Source(bids, "T2w"))] == ["sub-01_ses-b_T2w.nii.gz"]
    assert [one.path.name for one in found_images(Source(bids, select="run-1"))] == ["sub-01_ses-c_run-1_T1w.nii.gz"]
    assert found_images(Source(bids, select="run-2")) == []


def test_results_lie_as_bids_derivatives_do(bids: Path) -> None:
    out = bids / "derivatives" / "registrationnet"
    plan = bids_plan(Source(bids), "first-session", out, {})
    setting = begin_run(out, "run")
    for pair in plan.pairs:
        pretend(pair, setting)
    end_run(setting)
    write_overview(plan, out)
    assert all(is_done(pair, out) for pair in plan.pairs)
    start = "sub-01_ses-b"
    assert {path.name for path in (out / "sub-01" / "ses-b" / "anat").iterdir()} == {
        f"{start}_from-sesbT1w_to-sesaT1w_mode-image_xfm.h5",
        f"{start}_from-sesbT1w_to-sesaT1w_mode-image_xfm.json",
        f"{start}_from-sesaT1w_to-sesbT1w_mode-image_xfm.h5",
        f"{start}_from-sesaT1w_to-sesbT1w_mode-image_xfm.json",
        f"{start}_space-sesaT1w_desc-warped_T1w.nii.gz",
        f"{start}_space-sesaT1w_desc-warped_T1w.json",
        f"{start}_space-sesaT1w_desc-jacobian_map.nii.gz",
        f"{start}_space-sesaT1w_desc-jacobian_map.json",
        f"{start}_space-sesaT1w_desc-expectederror_map.nii.gz",
        f"{start}_space-sesaT1w_desc-expectederror_map.json",
        f"{start}_from-sesbT1w_to-sesaT1w_desc-registration_report.json",
        f"{start}_from-sesbT1w_to-sesaT1w_desc-registration_report.html",
        f"{start}_from-sesbT1w_to-sesaT1w_desc-registration_thumbnail.jpg",
    }
    sidecar = json.loads((out / "sub-01" / "ses-b" / "anat" / f"{start}_space-sesaT1w_desc-warped_T1w.json").read_text())
    assert sidecar["Sources"] == [f"bids:raw:{FILES[1]}", f"bids:raw:{FILES[0]}"]
    assert sidecar["SpatialReference"] == f"bids:raw:{FILES[0]}"
    description = json.loads((out / "dataset_description.json").read_text())
    assert (description["DatasetType"], description["GeneratedBy"][0]["Name"]) == ("derivative", "RegistrationNet")
    assert (out / description["DatasetLinks"]["raw"] / FILES[0]).resolve() == bids / FILES[0]
    assert "index.html" in (out / ".bidsignore").read_text().splitlines()


@pytest.mark.usefixtures("bids")
def test_a_plan_may_be_relative_to_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = bids_plan(Source(Path("bids")), "template", Path("out"), {}, template=Path("mni 152.nii.gz"))
    for pair in plan.pairs:
        assert all(path.is_absolute() for path in pair.files.values())


def test_what_does_not_make_a_plan_is_told(bids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="There is no rule 'all'; the rules are first-session, template"):
        bids_plan(Source(bids), "all", out, {})
    with pytest.raises(InputError, match="The rule template, and it alone, needs the image"):
        bids_plan(Source(bids), "template", out, {})
    with pytest.raises(PlanError, match="holds no image PDw with run-9; at least one"):
        bids_plan(Source(bids, "PDw", "run-9"), "first-session", out, {})
    with pytest.raises(PlanError, match="no subject has a second session"):
        bids_plan(Source(bids, "T2w"), "first-session", out, {})
    add(bids, "sub-01/ses-c/anat/sub-01_ses-c_run-2_T1w.nii.gz", bids / FILES[0])
    with pytest.raises(PlanError, match=r"sub-01/ses-c has 2 images T1w \(.*run-1.*run-2.*\); one is needed. Choose by --select"):
        bids_plan(Source(bids), "first-session", out, {})
    os.unlink(bids / "dataset_description.json")  # noqa: PTH108
    with pytest.raises(InputError, match="holds no dataset_description.json; a BIDS folder does"):
        bids_plan(Source(bids), "first-session", out, {})
