"""What may be asked for, and what the cards say where nothing is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from RegistrationNetLib.errors import InputError
from RegistrationNetLib.losses.similarity import LNCC, MINDSSC, NCC, SquaredLNCC
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.registration.field_refinement import FieldOptions
from RegistrationNetLib.registration.nephi_fit import ImplicitOptions
from RegistrationNetLib.registration.network_run import NetworkSettings
from RegistrationNetLib.registration.options import Options, checked_options


def options(model: str = "unigradicon", modalities: tuple[str, str] = ("mr", "mr"), **asked: Any) -> Options:
    return checked_options(model, modalities=modalities, **asked)


def of_network(found: Options) -> NetworkSettings:
    assert isinstance(found.settings, NetworkSettings)
    return found.settings


def of_nephi(found: Options) -> ImplicitOptions:
    assert isinstance(found.settings, ImplicitOptions)
    return found.settings


@pytest.mark.parametrize(("modalities", "name"), [(("mr", "mr"), "lncc"), (("ct", "mr"), "mind")])
def test_the_similarity_of_direct_is_chosen_by_modalities(modalities: tuple[str, str], name: str) -> None:
    found = options("direct", modalities)
    assert isinstance(found.settings, FieldOptions)
    assert found.measure.name == found.judge.name == found.settings.measure.name == name


@pytest.mark.parametrize(
    ("model", "modalities", "field", "network"),
    [
        ("unigradicon", ("mr", "mr"), "lncc", "lncc"),
        ("unigradicon", ("ct", "mr"), "mind", "mind"),
        ("multigradicon", ("mr", "mr"), "lncc2", "lncc2"),
        ("icon-knee", ("mr", "mr"), "lncc", "ssd"),
    ],
)
def test_the_similarity_is_chosen_by_card_and_modalities(
    model: str, modalities: tuple[str, str], field: str, network: str
) -> None:
    found = of_network(options(model, modalities))
    assert (found.field.measure.name, found.network.measure.name) == (field, network)


@pytest.mark.parametrize("refine", ["field", "network"])
def test_a_similarity_that_was_asked_for_is_that_of_both_refinements(refine: str) -> None:
    found = options(refine=refine, similarity="mind")
    assert of_network(found).field.measure == MINDSSC(1, 1)
    assert of_network(found).network.measure == MINDSSC(2, 2)
    assert found.measure == (MINDSSC(1, 1) if refine == "field" else MINDSSC(2, 2))


def test_windows_are_narrow_for_the_field_and_as_published_for_the_network() -> None:
    found = options(similarity="lncc2")
    assert of_network(found).field.measure == SquaredLNCC(1.5, 1e-4, 2)
    assert of_network(found).network.measure == SquaredLNCC(5)
    assert found.wide_measure == SquaredLNCC(3.0, 1e-3)
    assert options().wide_measure == LNCC(3.0, 1e-3)


@pytest.mark.parametrize(
    ("asked", "refine", "steps"),
    [
        ({}, "field", 24),
        ({"steps": 7}, "field", 7),
        ({"refine": "network"}, "network", 50),
        ({"refine": "network", "steps": 7}, "network", 7),
        ({"refine": "none"}, "none", 0),
        ({"refine": "none", "steps": 7}, "none", 0),
        ({"steps": 0}, "none", 0),
        ({"refine": "network", "steps": 0}, "none", 0),
    ],
)
def test_the_refinement_that_is_done_has_the_steps_asked_for(asked: dict[str, Any], refine: str, steps: int) -> None:
    found = options(**asked)
    assert (found.refine, found.steps) == (refine, steps)
    assert of_network(found).field.steps == (steps if refine == "field" else 0)


@pytest.mark.parametrize(
    ("asked", "refine", "steps"),
    [
        ({}, "network", card_named("nephi").refine["implicit"]["steps"]),
        ({"steps": 7}, "network", 7),
        ({"refine": "none"}, "none", 0),
        ({"steps": 0}, "none", 0),
        ({"refine": "none", "steps": 7}, "none", 0),
    ],
)
def test_nephi_fits_its_networks_for_the_steps_asked_for(asked: dict[str, Any], refine: str, steps: int) -> None:
    found = options("nephi", **asked)
    assert (found.refine, found.steps) == (refine, steps)
    assert of_nephi(found).steps == steps


def test_what_is_asked_of_nephi_reaches_its_fit() -> None:
    found = options("nephi", ("ct", "ct"), similarity="ncc", smoothness=2.0, conserve_mass=True)
    assert (found.measure, of_nephi(found).measure, of_nephi(found).smoothness) == (NCC(), NCC(), 2.0)
    assert of_nephi(found).conserve_mass
    assert options("nephi").measure == LNCC(1.5, 1e-4, 2, is_balanced=True)
    assert options("nephi", ("ct", "mr")).measure == MINDSSC(1, 1)
    assert options("nephi", weights="file").weights == Path("file")


def test_smoothness_and_mass_reach_both_refinements() -> None:
    found = of_network(options(modalities=("ct", "ct"), smoothness=2.0, conserve_mass=True))
    assert (found.field.smoothness, found.network.loss.weight) == (2.0, 3.0)
    assert found.field.conserve_mass
    assert found.network.conserve_mass


def test_the_alignment_is_that_of_the_card_unless_asked_for() -> None:
    assert options("direct").align == ("centre", "pose", "rigid", "similarity", "affine")
    assert options().align == ()
    assert options(align=["affine", "centre"]).align == ("centre", "affine")


@pytest.mark.parametrize(
    ("model", "asked", "message"),
    [
        ("unigradicom", {}, "There is no model 'unigradicom'; the models are .*unigradicon"),
        ("unigradicon", {"refine": "twice"}, "There is no refinement 'twice'; the refinements are none, field, network"),
        ("direct", {"refine": "network"}, "direct has no network to refine; its refinements are none, field"),
        ("unigradicon", {"steps": -1}, "steps is -1; it must be 0"),
        ("unigradicon", {"similarity": "ncd"}, "There is no similarity measure 'ncd'"),
        ("unigradicon", {"smoothness": 0.0}, "smoothness is 0; it must be above 0"),
        ("unigradicon", {"align": ["middle"]}, "There is no alignment stage 'middle'"),
        ("unigradicon", {"device": "tpu"}, "There is no device 'tpu'"),
        ("nephi", {"refine": "field"}, "nephi has no field to refine; its refinements are none, network"),
        ("direct", {"weights": "file.trch"}, "direct has no weights, but a weights file was given"),
        ("unigradicon", {"mirrored": True}, "unigradicon takes both sides of the body as they are"),
        ("unigradicon", {"conserve_mass": True}, "Mass is conserved between two CT images only.*got mr and mr"),
    ],
)
def test_what_does_not_go_together_is_refused(model: str, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(model, **asked)
