"""Checkpoints, curves, pictures and looks: what they hold, and what they say when they cannot be made or read."""

import sys
from pathlib import Path

import pytest
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.geometry.deformation import Composition, DisplacementField, identity_points
from RegistrationNetLib.losses.similarity import LNCC
from RegistrationNetLib.models.composition import BothWays
from RegistrationNetLib.models.gradicon import GradICONLoss
from RegistrationNetLib.training.checkpoints import load_checkpoint, save_checkpoint
from RegistrationNetLib.training.learning import LearningOptions, Objective, Step, learning
from RegistrationNetLib.training.record import Curves, Record
from RegistrationNetLib.training.state import Trainee
from RegistrationNetLib.training.synthetic import AnatomyPairs
from RegistrationNetLib.training.validation import folded_percent, inverse_error, look, overlap

from .tiny import SHAPE, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")
PAIRS = AnatomyPairs(SHAPE, classes=3)
LOSS = GradICONLoss(LNCC(2))
MADE_WITH = {"seed": 0, "shape": [16, 20]}


def trainee(steps: int = 2) -> Trainee:
    torch.manual_seed(0)
    one = Trainee(tiny_network())
    list(learning(one, LOSS, PAIRS, LearningOptions(steps=steps, learning_rate=1e-2)))
    return one


def test_a_checkpoint_gives_back_every_tensor_and_the_step(tmp_path: Path) -> None:
    saved, other = trainee(), Trainee(tiny_network())
    save_checkpoint(saved, tmp_path / "one.safetensors", MADE_WITH)
    load_checkpoint(other, tmp_path / "one.safetensors", MADE_WITH)
    assert other.steps == 2
    one, two = saved.tensors(), other.tensors()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) and one[name].dtype == two[name].dtype for name in one)


def test_bad_checkpoints_are_named(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_checkpoint(trainee(), path, MADE_WITH)
    with pytest.raises(InputError, match=r"made with seed = 0; .* now it is 1"):
        load_checkpoint(Trainee(tiny_network()), path, {**MADE_WITH, "seed": 1})
    with pytest.raises(InputError, match="is the checkpoint of another network"):
        load_checkpoint(Trainee(torch.nn.Linear(2, 2)), path, MADE_WITH)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="is not a whole checkpoint"):
        load_checkpoint(Trainee(tiny_network()), path, MADE_WITH)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not tell how it was made"):
        load_checkpoint(Trainee(tiny_network()), path, MADE_WITH)


@pytest.mark.parametrize("package", ["safetensors", "matplotlib.figure", "torch.utils.tensorboard"])
def test_a_package_that_is_missing_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    make = {
        "safetensors": lambda: save_checkpoint(trainee(0), tmp_path / "one", MADE_WITH),
        "matplotlib.figure": lambda: Record(tmp_path),
        "torch.utils.tensorboard": lambda: Record(tmp_path, pictures=False, tensorboard=True),
    }[package]
    with pytest.raises(
        InputError, match=f"package {package.split('.')[0] if package[0] != 't' else 'tensorboard'} is missing.*pip install"
    ):
        make()


def test_curves_drop_what_comes_after_the_step_they_go_on_from(tmp_path: Path) -> None:
    curves = Curves(tmp_path / "a.csv")
    for step in (1, 2, 3):
        curves.add({"step": step, "loss": 0.1 * step})
    again = Curves(tmp_path / "a.csv", after=2)
    again.add({"step": 3, "loss": 0.5})
    assert (tmp_path / "a.csv").read_text().split() == ["step,loss", "1,0.1", "2,0.2", "3,0.5"]
    assert Curves(tmp_path / "a.csv").rows == []


@pytest.mark.parametrize("shape", [SHAPE, (8, 10, 12)])
def test_pictures_of_curves_and_of_a_pair_are_drawn(tmp_path: Path, shape: tuple[int, ...]) -> None:
    class Still(torch.nn.Module):
        def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> Composition:
            zeros = fixed.new_zeros(moving.shape[0], moving.dim() - 2, *moving.shape[2:])
            return Composition((DisplacementField(zeros),))

    pairs, objective = AnatomyPairs(shape, classes=3), Objective(Still(), LOSS)
    record = Record(tmp_path)
    record.step(Step(1, 1.0, 1.0, 0.0, 0.1))
    record.look(1, look(objective, pairs.first(1)), objective, pairs.first(1)[0])
    record.close()
    for name in ("curves.png", "pair_0000001.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def test_a_network_that_moves_nothing_looks_as_before() -> None:
    objective = Objective(tiny_network().train(), LOSS)
    seen = look(objective, PAIRS.first(2))
    assert seen.dice == seen.dice_before
    assert seen.similarity == pytest.approx(seen.similarity_before)
    assert (seen.folded_percent, seen.inverse_error) == (0, pytest.approx(0, abs=1e-6))
    assert objective.network.training, "the mode stays as it was"


def test_folds_and_inconsistency_are_those_of_the_closed_form() -> None:
    lattice = identity_points(SHAPE, torch.zeros(()))
    folded = lattice.clone()
    folded[:, 0] = 1 - folded[:, 0]
    assert folded_percent(lattice) == 0
    assert folded_percent(folded) == 100
    shift = torch.zeros(1, 2, 2, 2)
    shift[:, 1] = 0.1
    maps = BothWays(Composition((DisplacementField(shift),)), Composition((DisplacementField(shift),)))
    assert inverse_error(maps, maps.moving_from_fixed(lattice)) == pytest.approx(0.2, rel=1e-5)


def test_overlap_is_dice_over_the_labels_of_both() -> None:
    pair = PAIRS.first(1)[0]
    lattice = identity_points(SHAPE, torch.zeros(()))
    same = type(pair)(pair.fixed, pair.fixed)
    assert overlap(same, lattice) == 1
    assert 0 < overlap(pair, lattice) < 1
