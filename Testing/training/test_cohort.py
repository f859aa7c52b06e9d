"""Cohorts on disk: folders, lists and pairs of real files, good and bad."""

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.errors import Cancelled, InputError
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.registration.prepare import Preparation
from RegistrationNetLib.training import data
from RegistrationNetLib.training.cohort_files import Cohort, Source, folder_cohort, listed_cohort, paired_cohort
from RegistrationNetLib.training.cohort_images import CohortPairs, Reader, surveyed
from RegistrationNetLib.training.data import LoadingOptions
from RegistrationNetLib.training.image_cache import ImageCache
from RegistrationNetLib.training.pairs import Example, Pair
from RegistrationNetLib.training.survey import kept_survey

from .tiny import SHAPE, write_images

ANY = Preparation({"other": {"quantiles": [0.0, 1.0]}, "ct": {"window": [0, 100]}})


def reader(preparation: Preparation = ANY, shape: tuple[int, ...] = SHAPE, **options: float) -> Reader:
    return Reader(shape, preparation, **options)


def pairs_of(cohort: Cohort, **options: float) -> CohortPairs:
    return CohortPairs(cohort, reader(**options))


def test_any_two_images_of_a_subfolder_form_a_pair(tmp_path: Path) -> None:
    write_images(tmp_path, "one/a.nii.gz", "one/b.nii.gz", "two/c.nrrd", "two/d.mha", "two/e.nii", "alone/f.nii.gz")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    cohort = folder_cohort(tmp_path / "images")
    assert [[source.image.name for source in group] for group in cohort.groups] == [
        ["a.nii.gz", "b.nii.gz"],
        ["c.nrrd", "d.mha", "e.nii"],
    ]
    pairs = pairs_of(cohort)
    names = {id(pairs.reader.example(source)): source.image.name for source in cohort.sources()}
    random, seen = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        pair = pairs.draw(random)
        seen.add((names[id(pair.fixed)], names[id(pair.moving)]))
    assert seen == {(a.image.name, b.image.name) for group in cohort.groups for a in group for b in group if a != b}
    looked = [(names[id(pair.fixed)], names[id(pair.moving)]) for pair in pairs.first(5)]
    assert looked == [("a.nii.gz", "b.nii.gz"), ("c.nrrd", "d.mha"), ("d.mha", "e.nii")]


def test_masks_and_labels_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    cohort = folder_cohort(tmp_path / "images", masks=tmp_path / "masks", labels=tmp_path / "labels")
    example = pairs_of(cohort).first(1)[0].fixed
    assert example.values.shape == (1, 1, *SHAPE)
    assert example.mask is not None
    assert example.labels is not None
    assert bool(example.mask.all())
    assert example.labels.unique().tolist() == [0, 1]
    (tmp_path / "labels" / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"images/b\.nii\.gz has no .*labels/b\.nii\.gz"):
        folder_cohort(tmp_path / "images", labels=tmp_path / "labels")


def test_a_list_of_pairs_gives_those_pairs_in_their_order(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    lines = [
        "fixed,moving,fixed_labels,moving_labels,moving_modality",
        "images/a.nii.gz,images/b.nii.gz,labels/a.nii.gz,labels/b.nii.gz,ct",
        "images/c.nii.gz,images/a.nii.gz,,,",
    ]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    cohort = listed_cohort(tmp_path / "list.csv")
    assert [(fixed.image.name, moving.image.name) for fixed, moving in cohort.pairs] == [
        ("a.nii.gz", "b.nii.gz"),
        ("c.nii.gz", "a.nii.gz"),
    ]
    assert [one.modality for one in cohort.pairs[0]] == ["other", "ct"]
    first, second = pairs_of(cohort).first(9)
    assert first.moving.labels is not None
    assert second.moving.labels is None


def test_a_list_of_images_pairs_those_of_a_group(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz")
    rows = "".join(
        f"images/{name}.nii.gz,{group},masks/{name}.nii.gz\n" for name, group in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"))
    )
    (tmp_path / "list.csv").write_text("image,group,mask\n" + rows)
    cohort = listed_cohort(tmp_path / "list.csv")
    assert [[one.image.name[0] for one in group] for group in cohort.groups] == [["a", "c"], ["b", "d"]]
    assert all(one.mask for one in cohort.sources())


def test_pairs_of_files_are_taken_as_given(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    fixed, moving = (tmp_path / "images" / name for name in ("a.nii.gz", "b.nii.gz"))
    (pair,) = pairs_of(paired_cohort([(fixed, moving)])).first(3)
    assert not torch.equal(pair.fixed.values, pair.moving.values)
    with pytest.raises(InputError, match=r"must have two files, fixed and moving; got .*a\.nii\.gz"):
        paired_cohort([(fixed,)])
    with pytest.raises(InputError, match="The list of pairs has no two images"):
        paired_cohort([])


def test_images_of_any_shape_come_to_one_lattice(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", size=(31, 22))
    write_images(tmp_path, "b.nii.gz", size=(9, 60))
    (pair,) = pairs_of(folder_cohort(tmp_path / "images")).first(1)
    assert pair.fixed.values.shape == pair.moving.values.shape == (1, 1, *SHAPE)


def test_images_come_to_the_axes_of_the_first_of_their_group(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", size=(20, 16))
    image = sitk.ReadImage(str(tmp_path / "images" / "a.nii.gz"))
    sitk.WriteImage(sitk.PermuteAxes(sitk.Flip(image, [True, False]), [1, 0]), str(tmp_path / "images" / "b.nii.gz"))
    (pair,) = pairs_of(folder_cohort(tmp_path / "images")).first(1)
    torch.testing.assert_close(pair.fixed.values, pair.moving.values)


def test_a_window_is_that_of_the_modality(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    one, other = (
        pairs_of(folder_cohort(tmp_path / "images", modality=modality)).first(1)[0].fixed.values for modality in ("ct", "other")
    )
    assert not torch.equal(one, other)
    with pytest.raises(InputError, match=r"a\.nii\.gz has the modality 'mr'; this model takes other, ct"):
        pairs_of(folder_cohort(tmp_path / "images", modality="mr")).first(1)
    with pytest.raises(InputError, match=r"no modality 'pet' .*; the modalities are ct, mr, other"):
        folder_cohort(tmp_path / "images", modality="pet")


def test_a_model_that_needs_masks_says_so(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    cohort = folder_cohort(tmp_path / "images", modality="ct")
    with pytest.raises(InputError, match=r"a\.nii\.gz has no mask; this model needs one of every image"):
        CohortPairs(cohort, reader(Preparation.of(card_named("gradicon-lung")))).first(1)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as an image"),
        (lambda path: sitk.WriteImage(sitk.Image(20, 16, sitk.sitkFloat32), str(path)), "one value everywhere"),
        (
            lambda path: sitk.WriteImage(sitk.GaussianSource(size=[9] * 3, mean=[4] * 3), str(path)),
            "has 3 dimensions, and the network 2",
        ),
    ],
)
def test_files_that_cannot_be_used_stop_or_are_skipped_as_asked(tmp_path: Path, spoil: object, match: str) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    spoil(tmp_path / "images" / "b.nii.gz")  # type: ignore[operator]
    cohort = folder_cohort(tmp_path / "images")
    with pytest.raises(InputError, match=rf"b\.nii\.gz.*{match}"):
        surveyed(cohort, reader())
    pairs, skipped = surveyed(cohort, reader(), unreadable="skip")
    assert [one.image.name for one in skipped] == ["b.nii.gz"]
    assert [source.image.name for source in pairs.cohort.sources()] == ["a.nii.gz", "c.nii.gz"]


def test_labels_that_lie_elsewhere_than_their_image_are_named(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    elsewhere = sitk.Image(5, 6, sitk.sitkUInt8) + 1
    elsewhere.SetOrigin((1000, 1000))
    sitk.WriteImage(elsewhere, str(tmp_path / "labels" / "b.nii.gz"))
    with pytest.raises(InputError, match=r"labels/b\.nii\.gz does not overlap its image"):
        surveyed(folder_cohort(tmp_path / "images", labels=tmp_path / "labels"), reader())


def test_pairs_that_need_a_skipped_file_go_with_it(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    a, b, c = (tmp_path / "images" / f"{name}.nii.gz" for name in "abc")
    b.unlink()
    pairs, skipped = surveyed(paired_cohort([(a, b), (c, a)]), reader(), unreadable="skip")
    assert [fixed.image for fixed, _ in pairs.cohort.pairs] == [c]
    assert [one.image for one in skipped] == [b]
    with pytest.raises(InputError, match="No pair of the cohort can be read; at least one is needed.*There is no file"):
        surveyed(paired_cohort([(a, b)]), reader(), unreadable="skip")


def test_a_survey_can_be_stopped(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")

    def stop(fraction: float) -> None:
        if fraction > 0:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        surveyed(folder_cohort(tmp_path / "images"), reader(), unreadable="skip", report=stop)


def test_what_is_not_in_memory_is_read_again(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    cohort = folder_cohort(tmp_path / "images")
    roomy, tight = pairs_of(cohort), pairs_of(cohort, keep_mb=0)
    assert roomy.first(1)[0].fixed is roomy.first(1)[0].fixed
    one, again = tight.first(1)[0].fixed, tight.first(1)[0].fixed
    assert one is not again
    assert torch.equal(one.values, again.values)


class Counting(Reader):
    """A reader that counts the images it decodes."""

    decoded = 0

    def _read(self, source: Source) -> Example:
        self.decoded += 1
        return super()._read(source)


def counting(cohort: Cohort, usable: set[str], *, unreadable: str = "skip", **options: Any) -> int:
    """How many images a survey decodes."""
    one = Counting(options.pop("shape", SHAPE), options.pop("preparation", ANY), **options)
    surveyed(cohort, one, unreadable=unreadable, usable=usable)
    return one.decoded


def test_what_was_found_usable_is_not_decoded_again_until_it_changes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    folders = {name: tmp_path / name for name in ("masks", "labels")}
    cohort, usable = folder_cohort(tmp_path / "images", **folders), set[str]()
    assert counting(cohort, usable) == 3
    assert counting(cohort, usable) == 0
    for folder in ("images", "masks", "labels"):
        touched = tmp_path / folder / "b.nii.gz"
        touched.write_bytes(touched.read_bytes())
        assert counting(cohort, usable) == 1
    first = tmp_path / "images" / "a.nii.gz"  # to whose axes the others are brought
    os.utime(first, (5, 5))
    assert counting(cohort, usable) == 3
    other = folder_cohort(tmp_path / "images", **folders, modality="ct")
    assert counting(other, usable) == 3
    assert counting(cohort, usable, shape=(16, 24)) == 3
    assert counting(cohort, usable, preparation=replace(ANY, crops_border=True)) == 3
    assert counting(cohort, usable) == 0


def test_what_was_not_usable_is_looked_at_again(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    good = (tmp_path / "images" / "b.nii.gz").read_bytes()
    (tmp_path / "images" / "b.nii.gz").write_bytes(b"nothing")
    cohort, usable = folder_cohort(tmp_path / "images"), set[str]()
    assert [counting(cohort, usable) for _ in range(2)] == [3, 1]
    with pytest.raises(InputError, match=r"b\.nii\.gz.*cannot be read as an image"):
        counting(cohort, usable, unreadable="stop")
    (tmp_path / "images" / "b.nii.gz").write_bytes(good)
    assert [counting(cohort, usable, unreadable="stop") for _ in range(2)] == [1, 0]


def test_a_survey_is_kept_whatever_ends_it_and_a_damaged_one_tells_nothing(tmp_path: Path) -> None:
    with pytest.raises(Cancelled), kept_survey(tmp_path) as usable:
        usable.add("a")
        raise Cancelled("stop")
    with kept_survey(tmp_path, is_shared=True) as usable:
        assert usable == {"a"}
    for damage in ("", "{", "[]", '{"usable": 3}'):
        (tmp_path / "survey.json").write_text(damage)
        with kept_survey(tmp_path) as usable:
            assert usable == set()


def test_prepared_images_are_taken_from_the_cache_as_they_were_and_changed_files_are_not(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    cohort = folder_cohort(tmp_path / "images", labels=tmp_path / "labels", masks=tmp_path / "masks")
    cache = ImageCache(tmp_path / "cache", 1)
    plain = CohortPairs(cohort, reader()).first(1)[0]

    def drawn() -> tuple[int, Pair]:
        one = Counting(SHAPE, ANY, cache=cache)
        pair = CohortPairs(cohort, one).first(1)[0]
        return one.decoded, pair

    assert [drawn()[0] for _ in range(2)] == [2, 0]
    _, found = drawn()
    for one, other in zip((found.fixed, found.moving), (plain.fixed, plain.moving), strict=True):
        assert all(torch.equal(*two) for two in zip(vars(one).values(), vars(other).values(), strict=True))
    write_images(tmp_path, "b.nii.gz", seed=7)
    decoded, changed = drawn()
    assert decoded == 1
    assert not torch.equal(changed.moving.values, plain.moving.values)
    for entry in (tmp_path / "cache").iterdir():
        entry.write_bytes(b"damaged")
    assert [drawn()[0] for _ in range(2)] == [2, 0]
    (tmp_path / "images" / "b.nii.gz").unlink()
    with pytest.raises(InputError, match=r"There is no file .*b\.nii\.gz"):
        drawn()


@pytest.mark.parametrize("processes", [0, 2])
def test_with_loader_processes_this_one_keeps_no_image_of_the_survey(tmp_path: Path, processes: int) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    loading = LoadingOptions(processes)
    pairs, _ = data.pairs_of(data.DataOptions(tmp_path / "images"), card_named("unigradicon"), SHAPE, loading=loading)
    assert isinstance(pairs, CohortPairs)
    kept = pairs.reader._kept
    assert len(kept) == (0 if processes else 2)
    assert (pairs.reader._kept_mb == 0) == bool(processes)
    assert pairs.first(1)[0].fixed is kept[next(iter(pairs.cohort.sources()))]


def test_images_in_memory_do_not_travel_to_other_processes(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    pairs = pairs_of(folder_cohort(tmp_path / "images"))
    before = len(pickle.dumps(pairs))
    first = pairs.first(1)[0]
    sent = pickle.dumps(pairs)
    assert len(sent) < before + 2000
    assert torch.equal(pickle.loads(sent).first(1)[0].fixed.values, first.fixed.values)
    assert pairs.first(1)[0].fixed is first.fixed


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("first,second\na,b\n", "columns first, second; a cohort needs fixed, moving .* or image"),
        ("fixed,moving,colour\na,b,c\n", "columns fixed, moving, colour; a cohort needs"),
        ("", "the columns of none"),
        ("fixed,moving\na.nii,\n", "A line of .* has no moving"),
        ("image\na.nii\n", "has no two images to register"),
    ],
)
def test_lists_of_another_form_are_refused(tmp_path: Path, content: str, match: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(InputError, match=match):
        listed_cohort(tmp_path / "list.csv")


def test_folders_and_lists_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no folder .*nowhere"):
        folder_cohort(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nowhere\.csv cannot be read as a list"):
        listed_cohort(tmp_path / "nowhere.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has no two images to register; learning needs pairs"):
        folder_cohort(tmp_path / "empty")
    with pytest.raises(InputError, match="must be stop or skip; got 'guess'"):
        surveyed(Cohort(), reader(), unreadable="guess")
