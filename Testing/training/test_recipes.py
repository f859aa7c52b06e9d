"""The recipes that come with the documents: they are understood, and what they make keeps its size."""

from pathlib import Path

import pytest
import torch

from RegistrationNetLib.models.checkpoint import load_into
from RegistrationNetLib.models.composition import both_ways
from RegistrationNetLib.registration.methods import untrained_network
from RegistrationNetLib.training.configuration import Configuration, read_configuration
from RegistrationNetLib.training.data import pairs_of
from RegistrationNetLib.training.export import own_card, write_model
from RegistrationNetLib.training.label_maps import files_of
from RegistrationNetLib.training.painting import PaintedPairs
from RegistrationNetLib.training.run import starting_network

from ..models.layers.published import randomize

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "recipes"
# Not part of the repository.
LABELS = FOLDER.parents[2] / "shared" / "labels"
FILES = sorted(FOLDER.glob("*.toml"))
MOST_BYTES = 8_000_000

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="not in a checkout")


def written(description: Configuration, folder: Path) -> tuple[torch.nn.Module, Path]:
    """The network of a recipe with random weights, and its file."""
    network = starting_network(description).eval()
    randomize(network, displacement=0.01)
    card = own_card(description.card, description.name, shape=description.lattice, refine={}, trained_on="nothing")
    return network, write_model(network, card, folder, in_half=description.record.half_precision)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_makes_a_model_of_at_most_8_mb_that_half_precision_hardly_changes(file: Path, tmp_path: Path) -> None:
    description = read_configuration(file)
    assert description.record.half_precision
    network, weights = written(description, tmp_path)
    assert weights.stat().st_size <= MOST_BYTES
    again = untrained_network(description.card).eval()
    load_into(again, description.card, weights)
    images = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        places = torch.rand(1, 3, 50)
        one, other = (both_ways(net, *images).moving_from_fixed(places) for net in (network, again))
    moved = (one - places).abs().mean()
    assert 0 < float((one - other).abs().mean()) < 0.01 * float(moved)
    assert all(value.dtype == torch.float32 for value in again.parameters())


def with_label_maps(file: Path, maps: Path, folder: Path) -> Configuration:
    """A recipe whose commented lines count, with its label maps in the folder `maps`."""
    text = file.read_text(encoding="utf-8").replace("# label_maps =", "label_maps =").replace('"maps/', f'"{maps.as_posix()}/')
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return read_configuration(folder / "recipe.toml")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_asks_for_nothing_that_is_not_shipped(file: Path) -> None:
    description = read_configuration(file)
    assert description.validation is not None
    for data in (description.data, description.validation):
        pairs, _ = pairs_of(data, description.card, description.lattice)
        assert isinstance(pairs, PaintedPairs)
        assert pairs.maps is None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_shows_how_it_learns_and_is_judged_on_different_label_maps(file: Path, tmp_path: Path) -> None:
    for number in range(1, 21):
        (tmp_path / f"heads_{number:02d}.nii.gz").touch()
    description = with_label_maps(file, tmp_path, tmp_path)
    assert description.validation is not None
    learnt, held_out = (set(files_of(data.label_maps)) for data in (description.data, description.validation))
    assert len(learnt) == 16
    assert len(held_out) == 4
    assert not learnt & held_out


@pytest.mark.slow
def test_a_recipe_reads_its_label_maps(tmp_path: Path) -> None:
    if not LABELS.exists():
        pytest.skip("there are no label maps beside the repository")
    description = with_label_maps(FOLDER / "any-contrast-32.toml", LABELS, tmp_path)
    assert description.validation is not None
    pairs, skipped = pairs_of(description.validation, description.card, description.lattice)
    assert isinstance(pairs, PaintedPairs)
    assert not skipped
    assert pairs.maps is not None
    assert len(pairs.maps.names) > 40
    assert all(one.unique().numel() > 30 for one in pairs.maps.maps)
