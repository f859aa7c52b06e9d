"""Weights in the panel: missing, on their way, cancelled, here."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.slicer_bridge.client import Client

from ..loopback import Server, dripping, stalled, status, the_rest
from .conftest import Panel


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """Where the worker looks for weights; its cache is empty."""
    one = Server([status(404)])
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REGISTRATIONNET_WEIGHTS_URL", one.url)
    with one.running():
        yield one


@pytest.fixture
def client(server: Server) -> Client:
    """A worker of its own, which has the server in its environment."""
    return Client()


@pytest.fixture
def lacking(server: Server, panel: Panel) -> Panel:
    """The panel with a network whose weights are not here."""
    panel.choose("modelCombo", "uniGradICON")
    return panel


def test_missing_weights_are_offered_with_their_size(lacking: Panel) -> None:
    assert lacking.ui.weightsLabel.text.startswith("Its weights are not on this computer yet (283 MB).")
    assert lacking.ui.downloadButton.text == "Download 283 MB"
    assert "No checksum is published: the first file is taken on faith" in lacking.ui.weightsLabel.toolTip
    assert lacking.ui.importButton.isVisibleTo(lacking.top)
    assert not lacking.ui.weightsProgressBar.isVisibleTo(lacking.top)


def test_weights_that_nobody_has_published_can_only_be_ones_own(server: Server, panel: Panel) -> None:
    panel.choose("modelCombo", "CARL (your own weights)")
    assert not panel.ui.downloadButton.isVisibleTo(panel.top)
    assert panel.ui.importButton.isVisibleTo(panel.top)


def test_direct_is_always_ready(server: Server, panel: Panel) -> None:
    assert panel.ui.weightsLabel.text == "Ready: needs no weights."
    assert not panel.ui.importButton.isVisibleTo(panel.top)


def test_a_download_that_fails_is_told_in_words(lacking: Panel) -> None:
    lacking.click("downloadButton")
    lacking.until(lambda: lacking.message)
    assert "404" in lacking.message
    assert lacking.ui.downloadButton.text == "Download 283 MB"


def test_a_download_can_be_cancelled(server: Server, lacking: Panel) -> None:
    let_go = threading.Event()
    server.answers = [stalled(b"x" * 100_000, let_go)]
    lacking.click("downloadButton")
    lacking.until(lambda: server.seen)
    assert lacking.ui.downloadButton.text == "Cancel"
    lacking.click("downloadButton")
    lacking.until(lambda: lacking.ui.downloadButton.text != "Cancel", seconds=10)
    let_go.set()
    assert lacking.message == ""
    assert lacking.ui.modelCombo.isEnabled()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights that fit ConstrICON, as nobody has trained them."""
    import torch

    from RegistrationNetLib.models.catalogue import card_named
    from RegistrationNetLib.registration.methods import untrained_network

    card = card_named("constricon-mouse")
    prefix = card.as_dict()["weights"]["state_dict_prefix"]
    file = tmp_path_factory.mktemp("weights") / "weights.trch"
    torch.save({f"{prefix}{name}": value for name, value in untrained_network(card).state_dict().items()}, file)
    return file.read_bytes()


def test_a_download_shows_its_progress_is_cancelled_and_goes_on_where_it_was(
    server: Server, panel: Panel, checkpoint: bytes
) -> None:
    let_go = threading.Event()
    server.answers = [dripping(checkpoint, let_go), the_rest(checkpoint)]
    panel.choose("modelCombo", "ConstrICON for mouse brains")
    panel.click("downloadButton")
    panel.until(lambda: panel.ui.weightsProgressBar.value > 450)
    assert panel.ui.weightsProgressBar.format.startswith("Downloading")
    panel.click("downloadButton")
    panel.until(lambda: panel.ui.downloadButton.text != "Cancel", seconds=10)
    let_go.set()
    assert panel.message == ""
    panel.click("downloadButton")
    panel.until(lambda: not panel.ui.downloadButton.isVisibleTo(panel.top))
    assert panel.message == ""
    assert panel.ui.weightsLabel.text.startswith("Ready: its weights are here")
    assert (
        f"SHA-256 of the weights: {hashlib.sha256(checkpoint).hexdigest()}, as the file had that came first"
        in panel.ui.weightsLabel.toolTip
    )
    assert int(server.seen[1][1]["Range"].removeprefix("bytes=").removesuffix("-")) > len(checkpoint) // 3


def test_a_file_that_is_none_is_refused_in_words(lacking: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = tmp_path / "letter.trch"
    wrong.write_text("Dear all")
    monkeypatch.setattr(lacking.qt.QFileDialog, "getOpenFileName", lambda *_: (str(wrong), ""))
    lacking.click("importButton")
    lacking.until(lambda: lacking.message)
    assert "is not a whole file of weights" in lacking.message
    assert not lacking.ui.weightsProgressBar.isVisibleTo(lacking.top)


def test_weights_that_are_there_are_ready(server: Server, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = panel.logic.models()
    for card in listed:
        if card["name"] == "unigradicon":
            card["state"] = {"kind": "ready", "path": "somewhere", "bytes": 282739696, "sha256": None}
    monkeypatch.setattr(panel.logic, "models", lambda: listed)
    panel.widget.modelPanel.refresh()
    panel.choose("modelCombo", "uniGradICON")
    assert panel.ui.weightsLabel.text == "Ready: its weights are here (283 MB)."
    assert not panel.ui.downloadButton.isVisibleTo(panel.top)


def test_while_weights_come_register_says_so(server: Server, lacking: Panel, scene: Any) -> None:
    from ..module.nodes import pair_nodes

    let_go = threading.Event()
    server.answers = [stalled(b"x" * 100_000, let_go)]
    pair_nodes(scene)
    lacking.choose("fixedSelector", "fixed")
    lacking.choose("movingSelector", "moving")
    lacking.click("downloadButton")
    assert lacking.ui.progressLabel.text == "The weights of uniGradICON are on their way."
    assert not lacking.ui.registerButton.isEnabled()
    lacking.click("downloadButton")
    lacking.until(lambda: lacking.ui.downloadButton.text != "Cancel", seconds=10)
    let_go.set()
    assert "are not here" in lacking.ui.progressLabel.text


def test_without_weights_register_says_what_to_do(lacking: Panel, scene: Any) -> None:
    from ..module.nodes import pair_nodes

    pair_nodes(scene)
    lacking.choose("fixedSelector", "fixed")
    lacking.choose("movingSelector", "moving")
    assert not lacking.ui.registerButton.isEnabled()
    assert "The weights of uniGradICON are not here" in lacking.ui.progressLabel.text
