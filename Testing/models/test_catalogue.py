"""The model cards: each complete, and found by its name."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.io.image_sources import MODALITIES
from RegistrationNetLib.io.warning import DataWarning
from RegistrationNetLib.losses.similarity import measure_named
from RegistrationNetLib.models import catalogue
from RegistrationNetLib.models.catalogue import (
    Card,
    card_named,
    cards,
    check_own_name,
    models_folder,
    own_card_path,
    resource_folder,
)  # fmt: skip
from RegistrationNetLib.registration.alignment import STAGES
from RegistrationNetLib.registration.methods import method_of, untrained_network
from RegistrationNetLib.registration.network_refinement import LOSSES, network_options

KEYS = {
    "name",
    "title",
    "summary",
    "paper",
    "method",
    "parameters",
    "input_shape",
    "prepare",
    "refine",
    "weights",
    "modalities",
    "anatomy",
    "intended_use",
    "not_for",
}
WEIGHT_KEYS = {"url", "file", "bytes", "sha256", "state_dict_prefix", "licence", "trained_on"}
FILES = sorted((resource_folder() / "Models").glob("*.json"))


def content_of(file: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return content


def test_there_is_a_card_for_direct() -> None:
    assert "direct" in cards()
    assert card_named("direct").weights is None


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_card_is_complete_and_named_as_its_file(file: Path) -> None:
    content = content_of(file)
    assert set(content) == KEYS
    assert content["name"] == file.stem
    for key in ("title", "summary", "method", "intended_use", "not_for"):
        assert isinstance(content[key], str)
        assert content[key]
    paper = content["paper"]
    assert isinstance(paper, dict)
    assert set(paper) == {"title", "arxiv", "year"}
    assert content["modalities"]
    assert set(content["modalities"]) <= set(MODALITIES)  # type: ignore[call-overload]
    assert content["anatomy"]
    assert "default" in content["refine"]  # type: ignore[operator]
    assert content["weights"] is None or set(content["weights"]) == WEIGHT_KEYS  # type: ignore[call-overload]
    shape = content["input_shape"]
    assert shape is None or len(shape) in (2, 3)  # type: ignore[arg-type]


def test_there_is_a_card_for_each_published_network() -> None:
    assert {"icon-knee", "gradicon-lung", "gradicon-knee", "gradicon-brain", "unigradicon", "multigradicon"} <= set(cards())


WITH_WEIGHTS = [card for card in cards().values() if card.weights]


@pytest.mark.parametrize("card", cards().values(), ids=lambda card: card.name)
def test_a_card_says_how_images_are_prepared(card: Card) -> None:
    prepare = card.prepare
    assert set(prepare) - {"crop_uniform_border"} == {"align", "intensity", "mask", "orientation", "mirror_axis"}
    assert set(prepare["align"]) <= set(STAGES)
    assert set(prepare["intensity"]) == set(card.modalities)
    for rule in prepare["intensity"].values():
        ((kind, value),) = rule.items()
        if kind == "scaled_maximum":
            assert 0 < value <= 1
        else:
            low, high = value
            assert low < high
            assert kind == "window" or (kind == "quantiles" and low >= 0 and high <= 1)
    assert prepare["mask"] in ("optional", "zeroed", "required")
    assert prepare["orientation"] in (None, "RAS")
    assert prepare.get("crop_uniform_border") in (None, False, True)
    assert prepare["mirror_axis"] in (None, 2)


@pytest.mark.parametrize("card", cards().values(), ids=lambda card: card.name)
def test_a_card_says_how_results_are_refined(card: Card) -> None:
    refine = card.refine
    assert refine["default"] in ("none", "field", "network")
    assert set(refine["similarity"]) == {"same_modality", "across_modalities"}
    for name in refine["similarity"].values():
        assert measure_named(name)
    assert ("network" in refine) == method_of(card).has_network


@pytest.mark.parametrize("card", WITH_WEIGHTS, ids=lambda card: card.name)
def test_a_card_says_how_its_network_is_refined(card: Card) -> None:
    network = card.refine["network"]
    assert network["loss"] in LOSSES
    assert network["outside"] in ("zeros", "border")
    assert ("sigma_vox" in network) == (network["similarity"] in ("lncc", "lncc2"))
    loss = network_options(card, network["similarity"]).loss
    assert (loss.similarity.name, loss.weight, loss.outside) == (network["similarity"], network["weight"], network["outside"])
    assert 0 < network["learning_rate"] < 1e-3
    assert network["steps"] > 0


@pytest.mark.parametrize("card", WITH_WEIGHTS, ids=lambda card: card.name)
def test_a_card_says_where_its_weights_are_and_how_large(card: Card) -> None:
    weights = card.weights or {}
    assert weights["url"] is None or re.fullmatch(r"https://github\.com/uncbiag/[\w./-]+", weights["url"])
    assert re.fullmatch(r"[\w-]+\.(trch|pth)", weights["file"])
    assert weights["sha256"] is None or re.fullmatch("[0-9a-f]{64}", weights["sha256"])
    assert weights["licence"]
    assert weights["trained_on"]
    with torch.device("meta"):
        state = untrained_network(card).state_dict()
    assert weights["bytes"] == sum(value.numel() * value.element_size() for value in state.values())


def test_no_two_cards_share_a_file_or_an_address() -> None:
    for key in ("file", "url"):
        values = [card.weights[key] for card in WITH_WEIGHTS if card.weights and card.weights[key]]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_card_is_what_its_file_holds(file: Path) -> None:
    card = card_named(file.stem)
    assert json.loads(json.dumps(card.as_dict())) == content_of(file)
    assert {field.name for field in fields(Card)} == KEYS


def test_cards_are_sorted_by_name_and_there_is_one_for_each_file() -> None:
    assert list(cards()) == sorted(file.stem for file in FILES)


@pytest.mark.parametrize("name", ["unknown", "Direct", "", "../direct"])
def test_an_unknown_model_lists_the_names(name: str) -> None:
    with pytest.raises(InputError, match=f"no model '{name}'; the models are .*direct.* Choose one of them"):
        card_named(name)


def test_a_change_to_what_a_card_gave_does_not_reach_the_catalogue() -> None:
    content = card_named("direct").as_dict()
    content["refine"]["default"] = "none"
    content["paper"].clear()
    assert card_named("direct").refine["default"] == "field"
    assert card_named("direct").paper


def test_the_cards_of_an_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "RegistrationNetLib"
    (package / "Resources").mkdir(parents=True)
    monkeypatch.setattr(catalogue, "__file__", str(package / "models" / "catalogue.py"))
    assert resource_folder() == package / "Resources"
    (package / "Resources").rmdir()
    assert resource_folder() == tmp_path / "Resources"


def test_a_card_under_a_wrong_name_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Models").mkdir()
    (tmp_path / "Models" / "other.json").write_text(FILES[0].read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(catalogue, "resource_folder", lambda: tmp_path)
    with pytest.raises(AssertionError, match="names itself"):
        catalogue.published_cards.__wrapped__()


def own_content(name: str, **weights: object) -> dict[str, Any]:
    """The content of a card of an own model."""
    base = card_named("unigradicon")
    told = {**(base.weights or {}), "url": None, "file": f"{name}.trch", **weights}
    return json.loads(json.dumps(replace(base, name=name, weights=told).as_dict()))  # type: ignore[no-any-return]


def own_card_file(name: str, text: str | None = None) -> Path:
    """A card among the user's own models."""
    file = own_card_path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(own_content(name)) if text is None else text)
    return file


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path))


@pytest.mark.usefixtures("own_folder")
def test_a_card_beside_the_weights_is_a_model_as_long_as_it_lies_there() -> None:
    file = own_card_file("our-knees")
    assert json.loads(json.dumps(card_named("our-knees").as_dict())) == own_content("our-knees")
    assert list(cards())[-1] == "our-knees"
    file.unlink()
    assert "our-knees" not in cards()


def without(section: str, key: str) -> str:
    content = own_content("broken")
    del content[section][key]
    return json.dumps(content)


def with_entry(key: str, value: object) -> str:
    return json.dumps({**own_content("broken"), key: value})


BROKEN = {
    "cut": "{",
    "empty": "{}",
    "a list": "[]",
    "a number": "3",
    "another name": json.dumps({"name": "another"}),
    "nested": "[" * 100_000,
    "no alignment": without("prepare", "align"),
    "no similarity": without("refine", "similarity"),
    "no address": without("weights", "url"),
    "text as parameters": with_entry("parameters", "many"),
    "a number as method": with_entry("method", 3),
    "a huge shape": with_entry("input_shape", [10**9] * 3),
    "a flat shape": with_entry("input_shape", [175]),
    "negative bytes": json.dumps(own_content("broken", bytes=-1)),
    "text as bytes": json.dumps(own_content("broken", bytes="many")),
}


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_no_card_is_named_and_stands_in_nobodys_way(what: str) -> None:
    own_card_file("broken", BROKEN[what])
    own_card_file("whole")
    assert card_named("direct").name == "direct"
    assert card_named("whole").name == "whole"
    message = r"broken\.card\.json is not the card of a model .*Remove it, or copy it again"
    with pytest.raises(InputError, match=message):
        card_named("broken")
    heard: list[str] = []
    found = cards(heard.append)
    assert "whole" in found
    assert "broken" not in found
    assert len(heard) == 1
    assert re.search(f"An own model is left out. .*{message}", heard[0])


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize(
    "file", ["/tmp/victim", "../../victim", "unigradicon.trch", "other.trch", "sub/ours.trch", "ours", "ours.json", "", 3, None]
)
def test_a_card_names_no_file_but_its_own(file: object) -> None:
    own_card_file("ours", json.dumps(own_content("ours", file=file)))
    with pytest.raises(
        InputError, match="names its weights .*; they must be called as the model, ours.trch, so that no other file is touched"
    ):
        card_named("ours")
    with pytest.warns(DataWarning, match="An own model is left out"):
        assert "ours" not in cards()


@pytest.mark.usefixtures("own_folder")
def test_an_own_model_takes_no_published_name() -> None:
    own_card_file("unigradicon", json.dumps(own_content("unigradicon")))
    with pytest.warns(DataWarning, match="The name unigradicon is that of a published model"):
        assert cards()["unigradicon"].weights["url"]  # type: ignore[index]


def test_without_a_home_folder_the_published_models_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("REGISTRATIONNET_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert card_named("direct").name == "direct"
    assert "unigradicon" in cards()
    with pytest.raises(InputError, match="no home folder for the weights of models.*REGISTRATIONNET_CACHE"):
        models_folder()


@pytest.mark.parametrize("name", ["", "../up", "A", "a b", ".hidden"])
def test_names_of_own_models_are_plain(name: str) -> None:
    with pytest.raises(InputError, match="A model may not be named"):
        check_own_name(name)
