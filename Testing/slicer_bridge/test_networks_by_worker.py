"""Every kind of network through the worker, as the panel and the console have it: models of the user's own, of small lattices."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from RegistrationNetLib.cli.main import main
from RegistrationNetLib.errors import Cancelled
from RegistrationNetLib.io.nrrd import Volume
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.registration.methods import untrained_network
from RegistrationNetLib.slicer_bridge import client as client_module
from RegistrationNetLib.slicer_bridge.client import Client, Job
from RegistrationNetLib.training.export import own_card, write_model

from ..models.layers.published import randomize
from ..worker_input import pair

SHAPE = (32, 32, 32)
KINDS = ("unigradicon", "carl", "constricon", "nephi")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A worker whose user has a model `own-KIND` of each kind, with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGISTRATIONNET_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = tmp_path_factory.mktemp("made")
        for kind in KINDS:
            card = own_card(card_named(kind), f"own-{kind}", shape=SHAPE, refine={}, trained_on="nothing")
            network = untrained_network(card)
            torch.manual_seed(0)
            randomize(network, displacement=0.002)
            assert main(["models", "import", card.name, str(write_model(network, card, made)), "--quiet"]) == 0
        with Client() as opened:
            yield opened


@pytest.mark.parametrize(
    "kind",
    ["unigradicon", pytest.param("carl", marks=pytest.mark.slow), pytest.param("constricon", marks=pytest.mark.slow), "nephi"],
)
def test_a_network_registers_in_the_worker(client: Client, kind: str) -> None:
    known = {model["name"]: model["state"]["kind"] for model in client.models().wait()}
    assert known[f"own-{kind}"] == "ready"
    stages = []
    options = {
        "model": f"own-{kind}",
        "refine": "none",
        "align": ["centre"],
        "repeats": 0,
        "fixed_modality": "mr",
        "moving_modality": "mr",
    }
    job = client.register(pair(), options=options, watch=lambda job: stages.append(job.progress and job.progress.stage))
    result = job.wait()
    assert result.report["model"] == f"own-{kind}"
    assert "network" in stages
    assert np.ptp(result.volumes["moving_from_fixed"].values) > 0


def off_mm(moved: Volume) -> float:
    """The mean distance from the true shift of `pair`, over the inside of the balls."""
    places = (
        np.moveaxis(np.indices(moved.values.shape[2::-1]), 0, -1) @ moved.world_from_index[:3, :3].T
        + moved.world_from_index[:3, 3]
    )
    inside = np.linalg.norm(places, axis=-1).transpose(2, 1, 0) < 15
    return float(np.linalg.norm(moved.values[inside] - [3, -4, 0], axis=-1).mean())


@pytest.mark.slow
def test_the_field_is_refined_from_where_carls_map_puts_it(client: Client) -> None:
    given = {"model": "own-carl", "align": ["centre"], "repeats": 0, "fixed_modality": "mr", "moving_modality": "mr"}

    def found(**more: object) -> dict[str, Volume]:
        return client.register(pair(), options={**given, **more}).wait().volumes

    alone, begun, refined = found(refine="none"), found(refine="field", steps=0), found(refine="field")
    np.testing.assert_allclose(begun["warped"].values, alone["warped"].values, atol=2)
    assert off_mm(refined["moving_from_fixed"]) < 0.9 * off_mm(alone["moving_from_fixed"])


def test_the_worker_lets_go_of_what_is_cancelled_in_the_network_before_it_must_be_ended(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=time.sleep))
    client.devices().wait()
    same = client._worker

    def cancel_in_stage(job: Job) -> None:
        if job.progress is not None and job.progress.stage == "network":
            job.cancel()

    options = {"model": "own-constricon", "refine": "network", "steps": 1000, "fixed_modality": "mr", "moving_modality": "mr"}
    job = client.register(pair(), options=options, watch=cancel_in_stage)
    with pytest.raises(Cancelled):
        job.wait()
    client.devices().wait()
    assert client._worker is same
