"""What the worker can do, asked directly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import InputError, OutputError, WeightsError
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.progress import silent
from RegistrationNetLib.registration import correction
from RegistrationNetLib.slicer_bridge import worker_services
from RegistrationNetLib.slicer_bridge.messages import WORK
from RegistrationNetLib.slicer_bridge.packed_mask import unpacked
from RegistrationNetLib.slicer_bridge.worker_services import SERVICES, downloaded, imported, registered

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK: dict[str, Any] = {"steps": 3, "align": ["centre"], "repeats": 0}


def blob(centre_mm: tuple[float, float, float], *, size: int = 24) -> sitk.Image:
    """A ball on an oblique lattice."""
    image = sitk.Image([size] * 3, sitk.sitkInt16)
    image.SetSpacing([2.0, 2.5, 3.0])
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.2, -0.1, 0.3)
    image.SetDirection(turn.GetMatrix())
    image.SetOrigin((-20.0, -25.0, -30.0))
    source = sitk.GaussianSource(
        sitk.sitkFloat32,
        [size] * 3,
        [9.0, 12.0, 10.0],
        list(centre_mm),
        1000.0,
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    return sitk.Cast(source, sitk.sitkInt16)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    paths = {name: str(folder / f"{name}.nrrd") for name in ("fixed", "moving", "labels")}
    fixed = blob((0.0, 0.0, 5.0))
    sitk.WriteImage(fixed, paths["fixed"])
    sitk.WriteImage(blob((3.0, -2.0, 6.0)), paths["moving"])
    sitk.WriteImage(sitk.Cast(fixed > 300, sitk.sitkUInt8), paths["labels"])
    return paths


def asked(pair: dict[str, str], folder: Path, /, **request: object) -> dict[str, object]:
    images = {name: pair[name] for name in ("fixed", "moving")}
    return {"id": 1, "do": "register", "images": images, "options": QUICK, "folder": str(folder), **request}


def test_the_fields_are_the_transforms_of_the_registration(
    pair: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    register = worker_services.register
    monkeypatch.setattr(worker_services, "register", lambda *a, **k: kept.append(register(*a, **k)) or kept[-1])
    answer = registered(asked(pair, tmp_path, parts=True), silent)
    (result,) = kept
    for name, transform in (("moving_from_fixed", result.moving_from_fixed), ("fixed_from_moving", result.fixed_from_moving)):
        field = sitk.ReadImage(answer["files"][name])
        for index in [(0, 0, 0), (5, 12, 7), tuple(size - 1 for size in field.GetSize())]:
            point = field.TransformIndexToPhysicalPoint(index)
            assert np.allclose(np.add(point, field.GetPixel(index)), transform.TransformPoint(point), rtol=0, atol=1e-4)
    deformable = sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(answer["files"]["deformable"]), sitk.sitkVectorFloat64))
    point = (1.0, 2.0, 3.0)
    matrix = np.array(answer["alignment"])
    chained = (matrix @ [*deformable.TransformPoint(point), 1])[:3]
    assert np.allclose(chained, result.moving_from_fixed.TransformPoint(point), rtol=0, atol=1e-4)
    assert np.array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(answer["files"]["warped"])), sitk.GetArrayFromImage(result.warped)
    )
    assert answer["report"] == result.report()
    assert np.array_equal(unpacked(answer["body"]).values, result.evidence.body)
    grid, world = result.evidence.grid, unpacked(answer["body"]).world_from_index
    assert np.allclose(world @ [3, 2, 1, 1], grid.world_from_voxel @ [1, 2, 3, 1])
    assert sum(answer["histogram"]["voxels"]) == result.jacobian.GetNumberOfPixels()


def test_an_initial_field_is_part_of_the_transform(pair: dict[str, str], tmp_path: Path) -> None:
    shift = (4.0, -3.0, 2.0)
    grid = sitk.ReadImage(pair["fixed"])
    geometry = (grid.GetSize(), grid.GetOrigin(), grid.GetSpacing(), grid.GetDirection())
    field = sitk.TransformToDisplacementField(sitk.TranslationTransform(3, shift), sitk.sitkVectorFloat32, *geometry)
    sitk.WriteImage(field, str(tmp_path / "initial.nrrd"))
    options = {**QUICK, "steps": 0, "align": []}
    for initial in (
        {"field": str(tmp_path / "initial.nrrd")},
        {"matrix": [[1, 0, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]]},
    ):
        answer = registered(asked(pair, tmp_path, options=options, initial=initial), silent)
        moved = sitk.ReadImage(answer["files"]["moving_from_fixed"])
        assert np.allclose(moved.GetPixel(12, 12, 12), shift, atol=1e-4)
        back = sitk.ReadImage(answer["files"]["fixed_from_moving"])
        assert np.allclose(back.GetPixel(*(size // 2 for size in back.GetSize())), [-one for one in shift], atol=0.02)


def test_displacements_come_along_the_axes_that_are_asked_for(pair: dict[str, str], tmp_path: Path) -> None:
    shift = {"matrix": [[1, 0.1, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]]}
    came = []
    for axes in ((1, 1, 1), (-1, -1, 1)):
        request = asked(
            pair, tmp_path, options={**QUICK, "steps": 0, "align": []}, initial=shift, displacement_axes=axes, parts=True
        )
        files = registered(request, silent)["files"]
        came.append([sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in files.values()])
    for plain, turned in zip(*came, strict=True):
        assert np.array_equal(turned, plain * (-1, -1, 1) if plain.ndim == 4 else plain)
    assert {one.ndim for one in came[0]} == {3, 4}


def test_masks_labels_and_landmarks_reach_the_road(pair: dict[str, str], tmp_path: Path) -> None:
    images = {"fixed": pair["fixed"], "moving": pair["moving"], "fixed_labels": pair["labels"], "moving_labels": pair["labels"]}
    images["fixed_mask"] = pair["labels"]
    options = {**QUICK, "steps": 0, "align": [], "fixed_landmarks": [[0, 0, 5.0]], "moving_landmarks": [[3.0, -2.0, 6.0]]}
    report = registered(asked(pair, tmp_path, images=images, options=options), silent)["report"]
    assert report["landmarks"]["error_mm"]["before"]["mean"] == pytest.approx(14**0.5)
    assert "1" in report["labels"]["dice"]
    assert report["inputs"]["fixed"]["mask"]
    assert report["inputs"]["fixed"]["labels"]
    # The names of temporary files are nobody's business.
    assert report["inputs"]["fixed"]["file"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {}}, "of which fixed and moving must be there; nothing came"),
        ({"images": None}, "None came"),
        ({"images": {"fixed": "a", "moving": "b", "third": "c"}}, "fixed, moving, third came"),
        ({"options": {"speed": 1}}, "The options of a registration are model, refine.*speed came"),
        ({"options": {"model": "dance"}}, "no model 'dance'"),
        ({"displacement_axes": [1, 0, 1]}, r"The displacement_axes are three of 1 and -1.*\[1, 0, 1\] came"),
        ({"displacement_axes": "xyz"}, "The displacement_axes are three of 1 and -1.*'xyz' came"),
        ({"images": {"fixed": "/nowhere.nrrd", "moving": "/nowhere.nrrd"}}, "no file"),
        ({"images": {"fixed": 5, "moving": "/nowhere.nrrd"}}, "The fixed of a request is a path; 5 came"),
        ({"folder": ["a"]}, r"The folder of a request is a path; \['a'\] came"),
        ({"initial": "left"}, "The initial transform of a request is a matrix .* or a field .*; 'left' came"),
        ({"initial": {"matrix": [[1, 0], [0, "x"]]}}, "The initial transform of a request is a matrix"),
        ({"initial": {"matrix": [[10**400] * 4] * 4}}, "The initial transform of a request is a matrix"),
        ({"initial": {"field": None}}, "The initial field of a request is a path; None came"),
        ({"previous": "left"}, "The result to go on from is a field, with its inverse and its alignment .*; 'left' came"),
        ({"previous": {"field": None}}, "The previous field of a request is a path; None came"),
    ],
)
def test_a_bad_request_is_refused(pair: dict[str, str], tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        registered({**asked(pair, tmp_path), **change}, silent)


def test_an_initial_field_must_hold_vectors(pair: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has as many numbers per voxel as dimensions; .* has 1 in 3"):
        registered(asked(pair, tmp_path, initial={"field": pair["fixed"]}), silent)


def test_a_result_is_gone_on_from(pair: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came back before, as displacements, and the affine part of them."""
    monkeypatch.setattr(correction, "STEPS", 0)
    shift = {"matrix": [[1, 0.1, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1]]}
    (tmp_path / "first").mkdir()
    first = registered(asked(pair, tmp_path / "first", options={"steps": 0, "align": []}, initial=shift), silent)
    files = {name: str(path) for name, path in first["files"].items()}
    points = {"fixed_landmarks": [[0.0, 0.0, 5.0]], "moving_landmarks": [[5.0, 1.0, 6.0]], "landmarks": "pull"}
    for previous in (
        {"field": files["moving_from_fixed"], "inverse": files["fixed_from_moving"], "alignment": first["alignment"]},
        {"field": files["moving_from_fixed"]},
    ):
        answer = registered(asked(pair, tmp_path, options={**points, "repeats": 0}, previous=previous), silent)
        assert answer["report"]["inputs"]["previous"]
        (told,) = answer["report"]["landmarks"]["points"]
        assert told["unpulled_mm"] == pytest.approx(np.linalg.norm([1.0, 4.0, -1.0]), abs=0.05)
        assert told["after_mm"] < 0.7
        if "alignment" in previous:
            assert np.allclose(answer["alignment"], shift["matrix"], atol=1e-6)


def test_a_full_disk_is_told(pair: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Free some disk space"):
        registered(asked(pair, tmp_path / "missing", options={**QUICK, "steps": 0}), silent)


def test_there_is_a_service_for_every_request_that_is_work() -> None:
    assert set(SERVICES) == set(WORK)


@pytest.mark.parametrize(("cards", "names"), [(1, ["cuda"]), (2, ["cuda:0", "cuda:1"])])
def test_every_graphics_card_is_listed_with_its_free_memory(
    cards: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: ((index + 1) * 2**30, 2**34))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"Card {index}")
    found = [one for one in SERVICES["devices"]({}, silent) if one["name"] not in ("cpu", "mps")]
    assert [one["name"] for one in found] == names
    assert found[-1] == {"name": names[-1], "title": f"Card {cards - 1}", "free_mb": 1024.0 * cards}


def test_devices_and_models_are_listed() -> None:
    assert SERVICES["devices"]({}, silent)[0]["name"] == "cpu"
    (direct,) = (model for model in SERVICES["models"]({}, silent) if model["name"] == "direct")
    assert direct["state"] == {"kind": "none needed", "path": None, "bytes": 0, "sha256": None}
    assert direct["title"] == card_named("direct").title


def test_direct_has_nothing_to_download() -> None:
    with pytest.raises(InputError, match="needs no weights"):
        downloaded({"model": "direct"}, silent)
    with pytest.raises(InputError, match="no model 'None'"):
        downloaded({}, silent)


@pytest.mark.parametrize("given", ["abc", 5, ["a" * 64], "g" * 64])
def test_a_checksum_of_a_request_is_one(given: object) -> None:
    for service in (downloaded, imported):
        with pytest.raises(InputError, match="sha256 of a request is a checksum of 64 hexadecimal digits; .* came. Correct"):
            service({"model": "unigradicon", "file": "a", "sha256": given}, silent)


def test_a_file_of_another_checksum_than_was_asked_for_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_bytes(b"any")
    with pytest.raises(WeightsError, match=f"must have the checksum {64 * 'a'}, as you asked"):
        imported({"model": "unigradicon", "file": str(tmp_path / "file"), "sha256": 64 * "A"}, silent)


def test_a_file_that_holds_no_weights_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_bytes(b"<html>")
    with pytest.raises(WeightsError, match="web page"):
        imported({"model": "unigradicon", "file": str(tmp_path / "file")}, silent)
    (model,) = (one for one in SERVICES["models"]({}, silent) if one["name"] == "unigradicon")
    assert model["state"]["kind"] == "missing"
