"""Cards of the user's own, as docs/cards.md makes them: every published composition of CARL, and more squarings for ConstrICON."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib import register
from RegistrationNetLib.cli.main import main
from RegistrationNetLib.models.carl import COMPOSITIONS
from RegistrationNetLib.models.catalogue import Card, card_named
from RegistrationNetLib.models.constricon import VelocityExponential
from RegistrationNetLib.registration.methods import untrained_network

from .layers.published import randomize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))


def imported(folder: Path, like: str, shape: tuple[int, ...], parameters: dict[str, Any]) -> Card:
    base = card_named(like)
    assert base.weights is not None
    weights = {**base.weights, "file": "ours.trch", "sha256": None}
    card = replace(base, name="ours", input_shape=shape, parameters=parameters, weights=weights)
    (folder / "ours.card.json").write_text(json.dumps(card.as_dict()))
    network = untrained_network(card)
    randomize(network)
    torch.save({weights["state_dict_prefix"] + name: value for name, value in network.state_dict().items()}, folder / "ours.trch")
    assert main(["models", "import", "ours", str(folder / "ours.trch"), "--quiet"]) == 0
    return card_named("ours")


def images() -> list[sitk.Image]:
    random = np.random.default_rng(0)
    return [sitk.Resample(sitk.GetImageFromArray(random.random((9, 8)).astype(np.float32)), (80, 90)) for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_every_published_composition_of_carl_can_be_brought(tmp_path: Path, composition: str) -> None:
    shape = (112, 96) if composition.startswith("unicarl") else (32, 24)
    card = imported(tmp_path, "carl", shape, {"composition": composition, "has_fourth_step": composition == "final_rotation"})
    result = register(*images(), model="ours", refine="none", fixed_modality="mr", moving_modality="mr")
    assert result.facts["model"] == card.name


def test_the_names_in_a_file_of_unicarl_begin_as_in_the_published_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(tmp_path, "unicarl", (112, 96), dict(card_named("unicarl").parameters))
    content = torch.load(tmp_path / "ours.trch", weights_only=True)
    assert all(name.startswith("netPsi.netPsi.") for name in content)
    bare = {name.removeprefix("netPsi.netPsi."): value for name, value in content.items()}
    torch.save(bare, tmp_path / "ours.trch")
    assert main(["models", "remove", "ours", "--quiet"]) == 0
    assert main(["models", "import", "ours", str(tmp_path / "ours.trch"), "--quiet"]) != 0
    assert "does not fit" in capsys.readouterr().err


def test_the_squarings_of_constricon_are_those_of_the_card(tmp_path: Path) -> None:
    card = imported(tmp_path, "constricon", (32, 24), {**card_named("constricon").parameters, "squarings": 9})
    steps = [one for one in untrained_network(card).modules() if isinstance(one, VelocityExponential)]
    assert [one.squarings for one in steps] == [9, 9]
    register(*images(), model="ours", refine="none", fixed_modality="mr", moving_modality="mr")
