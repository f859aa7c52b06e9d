"""What may be given as an image, and how to bring what may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.image_sources import as_image

from ..dicom_files import write_series
from ..volumes import SHAPE, noise, voxels


@pytest.mark.parametrize("source", [3, None, np.zeros(SHAPE), torch.zeros(SHAPE), b"path"])
def test_what_is_no_image_is_refused_by_its_type(source: object) -> None:
    with pytest.raises(
        InputError, match=f"fixed is a {type(source).__name__}; a path, or an image of SimpleITK, ITK or nibabel is needed"
    ):
        as_image(source, "fixed")


def test_a_label_map_is_refused_before_simpleitk_aborts() -> None:
    label_map = sitk.LabelImageToLabelMap(sitk.Cast(noise(), sitk.sitkUInt16))
    with pytest.raises(InputError, match="fixed labels is a label map; an image of voxels is needed"):
        as_image(label_map, "fixed labels")


def test_a_warning_names_the_image_and_keeps_its_words_whatever_the_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder may be called like a word of the warning about it."""
    places = np.array([0.0, 0.0, 1.0]) * np.arange(10)[:, None] * 3.0 + np.arange(10)[:, None] * (0.0, 1.0, 0.0)
    write_series(tmp_path / "tilted", np.random.default_rng(0).integers(0, 99, (10, 9, 8)), places)
    monkeypatch.chdir(tmp_path)
    heard: list[str] = []
    as_image("tilted", "moving", heard.append)
    assert heard[0].startswith("moving: its slices lie aside of each other, as with a gantry tilted by 18.4°;")


@pytest.mark.parametrize(
    ("source", "way"),
    [
        (np.zeros(SHAPE), "SimpleITK.GetImageFromArray, and give it its SetSpacing"),
        (torch.zeros(SHAPE), r"GetImageFromArray\(tensor.numpy\(\)\)"),
        ({"image": "a.nii.gz"}, "Give what it holds: the path or the image"),
        ([1, 2], "Give its path"),
    ],
)
def test_how_to_bring_what_is_no_image_is_said(source: object, way: str) -> None:
    with pytest.raises(InputError, match=way):
        as_image(source, "fixed")


def test_a_volume_stored_as_a_series_of_one_is_the_volume(tmp_path: Path) -> None:
    image = noise()
    sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / "one.nrrd"))
    found = as_image(tmp_path / "one.nrrd", "fixed")
    assert found.GetSize() == image.GetSize()
    assert np.array_equal(voxels(found), voxels(image))


def test_warnings_name_the_image_and_not_its_folder(tmp_path: Path) -> None:
    write_series(
        tmp_path / "Doe^John",
        np.zeros((8, 8, 8)),
        np.arange(8)[:, None] * (0.0, 0.0, 2.0) + (0, 0.2, 0) * (np.arange(8) == 3)[:, None],
    )
    for path in (tmp_path / "Doe^John", f"{tmp_path}/Doe^John/"):
        heard: list[str] = []
        as_image(path, "fixed", heard.append)
        assert len(heard) == 1
        assert heard[0].startswith("fixed: its slices do not lie evenly")
        assert "Doe" not in heard[0]
