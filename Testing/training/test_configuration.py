"""Descriptions of trainings: what they may say, and what each word changes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.training.configuration import Configuration, read_configuration
from RegistrationNetLib.training.data import pairs_of
from RegistrationNetLib.training.painting import PaintedPairs, PaintingOptions
from RegistrationNetLib.training.run import _loss_options
from RegistrationNetLib.training.synthetic import AnatomyPairs, ShapePairs

from .tiny import described, write_images, write_label_maps

pytestmark = pytest.mark.usefixtures("tiny")
LEAST = 'model = "tiny"\nname = "own"\nout = "out"\n'


def test_a_file_is_read_with_its_paths_beside_it(tmp_path: Path) -> None:
    text = (
        LEAST
        + '[learning]\nsteps = 7\n[augmentation]\nflips = true\n[loading]\ncache = "kept"\n[data]\nfolder = "images"\nmasks = "masks"\n'
    )
    (tmp_path / "run.toml").write_text(text)
    found = read_configuration(tmp_path / "run.toml")
    assert found.out == tmp_path / "out"
    assert (found.data.folder, found.data.masks) == (tmp_path / "images", tmp_path / "masks")
    assert found.learning.steps == 7
    assert found.learning.augmentation.flips
    assert found.loading.cache == tmp_path / "kept"


def test_the_example_of_the_manual_is_understood(tmp_path: Path) -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (tmp_path / "run.toml").write_text(manual.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    found = read_configuration(tmp_path / "run.toml")
    assert found.lattice == (96, 96, 96)
    assert found.validation is not None


def test_the_manual_names_every_option_of_painting_with_its_default(tmp_path: Path) -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    section = manual.split("```toml\n")[2].split("```")[0]
    found = read_configuration_of(tmp_path, LEAST + section)
    assert found.data.painting == PaintingOptions()
    assert all(f"\n{one.name} = " in section for one in fields(PaintingOptions))


def test_similarity_and_smoothness_change_the_loss(tmp_path: Path) -> None:
    own, other = (_loss_options(described(tmp_path, loss=loss)).loss for loss in ({}, {"similarity": "ssd", "smoothness": 2.0}))
    assert isinstance(own, GradICONLoss)
    assert isinstance(other, GradICONLoss)
    assert (own.similarity.name, own.weight, other.similarity.name, other.weight) == ("lncc", 1.5, "ssd", 3.0)


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("carl", {}, 1500),
        ("unicarl", {}, 1500),
        ("unigradicon", {}, 0),
        ("carl", {"start": "own.trch"}, 0),
        ("carl", {"loss": {"diffusion_steps": 7}}, 7),
        ("unigradicon", {"loss": {"diffusion_steps": 7}}, 7),
    ],
)
def test_only_carl_from_nothing_begins_with_diffusion_unless_told(
    tmp_path: Path, model: str, given: dict[str, Any], expected: int
) -> None:
    description = described(tmp_path, model=model, **given)
    assert description.diffusion_steps == expected
    assert description.made_with()["loss"]["diffusion_steps"] == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("anatomy", AnatomyPairs), ("painted", PaintedPairs), ("shapes", ShapePairs), ("hollow-shapes", ShapePairs)],
)
def test_synthetic_data_are_made_for_the_lattice(tmp_path: Path, kind: str, expected: type) -> None:
    description = described(tmp_path, data={"synthetic": kind}, shape=[24, 24])
    pairs, _ = pairs_of(description.data, description.card, description.lattice)
    assert isinstance(pairs, expected)
    assert pairs.first(1)[0].fixed.values.shape == (1, 1, 24, 24)


def test_painted_images_are_described_with_their_label_maps(tmp_path: Path) -> None:
    write_label_maps(tmp_path / "maps", 3)
    text = (
        LEAST.replace('out = "out"', 'out = "out"\nshape = [16, 20]')
        + '[data]\nsynthetic = "painted"\nlabel_maps = ["maps/m0*", "maps/m2.nii.gz"]\n[data.painting]\nshapes = 0.0\nclasses = 3\n'
        + '[validation]\nsynthetic = "painted"\nlabel_maps = ["maps/m1.nii.gz"]\n[validation.painting]\ntwo_maps = 1.0\n'
    )
    (tmp_path / "run.toml").write_text(text)
    found = read_configuration(tmp_path / "run.toml")
    pairs, _ = pairs_of(found.data, found.card, found.lattice)
    assert isinstance(pairs, PaintedPairs)
    assert pairs.maps is not None
    assert len(pairs.maps.maps) == 2
    assert pairs.options == PaintingOptions(shapes=0.0, classes=3)
    assert found.validation is not None
    assert found.validation.painting.two_maps == 1
    other = read_configuration_of(tmp_path, text.replace("classes = 3", "classes = 4"))
    assert found.made_with() != other.made_with(), "what is painted otherwise is another training"


def read_configuration_of(folder: Path, text: str) -> Configuration:
    (folder / "other.toml").write_text(text)
    return read_configuration(folder / "other.toml")


def test_listed_and_paired_files_are_data_too(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "list.csv").write_text("fixed,moving\nimages/a.nii.gz,images/b.nii.gz\n")
    for data in ({"list": "list.csv"}, {"pairs": [["images/a.nii.gz", "images/b.nii.gz"]]}):
        description = described(tmp_path, data=data)
        pairs, _ = pairs_of(description.data, description.card, description.lattice)
        assert len(pairs.first(5)) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("model = ", "cannot be read as a description of a training"),
        ('model = "tiny"', "has no name; it needs model, name, out"),
        (LEAST, r"has no \[data\]; there is nothing to learn from"),
        (LEAST + "[learning]\nstps = 3\n", r"\[learning\] does not know stps; it takes steps, batch"),
        (LEAST + 'colour = "red"\n[data]\nsynthetic = "anatomy"\n', "does not know colour"),
        (LEAST + "[learning]\nbatch = 0\n", "batch must be a whole number from 1 up"),
        (
            LEAST + '[record]\nvalidate_every = "often"\n',
            r"\[record\] validate_every must be a whole number; got 'often'. Correct it",
        ),
        (LEAST + "[record]\nvalidate_every = 2.5\n", r"\[record\] validate_every must be a whole number; got 2.5"),
        (LEAST + "[learning]\nsteps = true\n", r"\[learning\] steps must be a whole number; got True"),
        (LEAST + "[loss]\ndiffusion_steps = 1.5\n", r"\[loss\] diffusion_steps must be a whole number; got 1.5"),
        (LEAST + "[augmentation]\nflips = 1\n", r"\[augmentation\] flips must be true or false; got 1"),
        (LEAST + "[loss]\nsimilarity = 3\n", r"\[loss\] similarity must be text; got 3"),
        (LEAST + "learning = 3\n", r"\[learning\] must be a table; got 3. Correct it; docs/training.md shows"),
        (LEAST + "data = 3\n", r"\[data\] must be a table; got 3"),
        (LEAST + '[data]\nsynthetic = "painted"\npainting = 3\n', r"\[data.painting\] must be a table; got 3"),
        (
            LEAST + '[data]\nsynthetic = "painted"\npainting.classes = 2.5\n',
            r"painting\] classes must be a whole number; got 2.5",
        ),
        (LEAST + 'parameters = 3\n[data]\nsynthetic = "anatomy"\n', "training parameters must be a table; got 3"),
        (LEAST + 'shape = 16\n[data]\nsynthetic = "anatomy"\n', r"^shape must be a list in brackets, \[ \]; got 16"),
        (LEAST + 'shape = [16, 2.5]\n[data]\nsynthetic = "anatomy"\n', "each of shape must be a whole number; got 2.5"),
        (LEAST + 'start = 3\n[data]\nsynthetic = "anatomy"\n', "^start must be the name of a file or folder; got 3"),
        (LEAST.replace('"out"', '""') + '[data]\nsynthetic = "anatomy"\n', "^out must be the name of a file or folder; got ''"),
        (LEAST + '[loading]\ncache = ""\n', r"\[loading\] cache must be the name of a file or folder; got ''"),
        (LEAST + '[data]\nlabel_maps = "maps"\n', r"\[data\] label_maps must be a list in brackets, \[ \]; got 'maps'"),
        (LEAST + "[data]\nlabel_maps = [3]\n", r"each of \[data\] label_maps must be the name of a file .* got 3"),
        (LEAST + '[data]\npairs = "a b"\n', r"\[data\] pairs must be a list in brackets, \[ \]; got 'a b'"),
        (LEAST + '[data]\npairs = ["ab"]\n', r"each of \[data\] pairs must be a list in brackets, \[ \]; got 'ab'"),
        (LEAST + "[data]\nfolder = 3\n", r"\[data\] folder must be the name of a file or folder; got 3"),
        (LEAST + "[record]\nvalidate_every = 0\n", "validate_every must be 1 or more; got 0"),
        (LEAST + "[loss]\nsmoothness = -1\n", "smoothness must be 0 or more; got -1"),
        (LEAST + "[loss]\ndiffusion_steps = -1\n", "diffusion_steps must be a whole number from 0 up; got -1"),
        (LEAST + "[loss]\ndiffusion = -1\n", "diffusion must be 0 or more; got -1"),
        (LEAST + "[learning]\nema = 1.0\n", "ema must be from 0 to below 1; got 1.0"),
        (LEAST + '[schedule]\nkind = "none"\n', "no schedule 'none'"),
        (LEAST + "[schedule]\nlength = 3\n", r"\[schedule\] does not know length; it takes kind, warm_up"),
        (LEAST + "[loading]\nprocesses = -1\n", "loading: processes must be a whole number from 0 up; got -1"),
        (LEAST + "[loading]\ncache_gb = 0\n", "loading: cache_gb must be above 0; got 0"),
        (LEAST + "[loading]\nmemory_mb = -1\n", "loading: memory_mb must be 0 or more; got -1"),
        (LEAST + '[loading]\ncache_gb = "much"\n', r"\[loading\] cache_gb must be a number; got 'much'"),
        (LEAST + "[data]\n", "Data come from one of folder, list, pairs, synthetic; got none of them"),
        (LEAST + '[data]\nfolder = "a"\nlist = "b"\n', "got folder and list"),
        (LEAST + '[data]\nsynthetic = "anatomy"\nlabel_maps = ["a"]\n', 'are for synthetic = "painted"; .* from `anatomy`'),
        (LEAST + '[data]\nlist = "a"\n[data.painting]\ncut = 0.1\n', 'are for synthetic = "painted"; .* from `list`'),
        (LEAST + '[data]\nsynthetic = "painted"\n[data.painting]\ncat = 1\n', r"\[data.painting\] does not know cat"),
        (LEAST + '[data]\nlist = "b"\nmasks = "c"\n', "masks and labels are folders beside `folder`"),
        (LEAST.replace("own", "direct") + '[data]\nfolder = "a"\n', "direct is that of a published model"),
        (LEAST.replace("own", "../own") + '[data]\nfolder = "a"\n', r"may not be named '\.\./own'"),
        (LEAST.replace('"tiny"', '"direct"') + '[data]\nfolder = "a"\n', "direct has no network; training needs one"),
        (LEAST.replace('"tiny"', '"unknown"') + '[data]\nfolder = "a"\n', "no model 'unknown'"),
    ],
)
def test_what_cannot_be_understood_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(InputError, match=match):
        read_configuration(tmp_path / "run.toml")


def test_synthetic_data_that_do_not_exist_or_fit_are_refused(tmp_path: Path) -> None:
    for kind, match in (
        ("clouds", "no synthetic data 'clouds'; there are anatomy, painted, shapes"),
        ("shapes", r"square images.*\[16, 20\]"),
    ):
        description = described(tmp_path, data={"synthetic": kind})
        with pytest.raises(InputError, match=match):
            pairs_of(description.data, description.card, description.lattice)
