"""What the command line, the library and the panel offer: the same values, and each of them does something."""

import argparse
import inspect

import pytest

from RegistrationNetLib import choices
from RegistrationNetLib.cli.main import parser
from RegistrationNetLib.devices import chosen_device
from RegistrationNetLib.errors import InputError
from RegistrationNetLib.losses.similarity import MEASURES
from RegistrationNetLib.registration.alignment import checked_stages
from RegistrationNetLib.registration.options import checked_options
from RegistrationNetLib.registration.pipeline import register

# What `register` takes beside its options: images, points, a transform, and whom to tell of progress.
NOT_OPTIONS = {"fixed", "moving", "rigid", "keep_volume", "initial", "previous", "landmark_labels", "progress"} | {
    f"{side}_{what}" for side in ("fixed", "moving") for what in ("mask", "labels", "landmarks")
}
OTHER = ("other", "other")


def test_the_options_are_those_that_register_takes() -> None:
    taken = inspect.signature(register).parameters
    assert tuple(name for name in taken if name not in NOT_OPTIONS) == choices.OPTIONS


def flags() -> dict[str, argparse.Action]:
    """The flags of the command `register`, by the names of their values."""
    commands = next(one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    return {one.dest: one for one in commands.choices["register"]._actions}


def test_the_command_line_has_a_flag_for_each_option() -> None:
    assert set(choices.OPTIONS) - {"tolerance"} <= set(flags())  # the flag of landmarks takes the tolerance, too


@pytest.mark.parametrize(
    ("given", "landmarks", "tolerance"),
    [([], "judge", 1.0), (["--landmarks-pull"], "pull", 1.0), (["--landmarks-pull", "2.5"], "pull", 2.5)],
)
def test_landmarks_pull_where_the_command_line_says_so(given: list[str], landmarks: str, tolerance: float) -> None:
    options = parser().parse_args(["register", "fixed", "moving", "out", *given])
    assert (options.landmarks, options.tolerance) == (landmarks, tolerance)


def test_a_tolerance_that_is_no_number_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["register", "fixed", "moving", "out", "--landmarks-pull", "near"])
    assert "argument --landmarks-pull: 'near' is not a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("refine", choices.REFINEMENTS),
        ("fixed_modality", choices.MODALITIES),
        ("moving_modality", choices.MODALITIES),
    ],
)
def test_a_flag_offers_what_the_library_takes(flag: str, values: tuple[str, ...]) -> None:
    assert tuple(flags()[flag].choices or ()) == values


@pytest.mark.parametrize("name", choices.LANDMARK_USES)
def test_every_use_of_landmarks_is_taken(name: str) -> None:
    assert checked_options("direct", modalities=OTHER, landmarks=name).landmarks == name


@pytest.mark.parametrize("name", choices.REFINEMENTS)
def test_every_refinement_is_one_of_some_model(name: str) -> None:
    assert checked_options("unigradicon", modalities=OTHER, refine=name).refine == name


def test_every_similarity_measure_is_a_choice_and_every_choice_a_measure() -> None:
    assert set(MEASURES) == set(choices.SIMILARITIES)
    for name in choices.SIMILARITIES:
        assert checked_options("direct", modalities=OTHER, similarity=name).measure.name == name


def test_the_stages_of_the_alignment_are_told_in_the_order_in_which_they_are_done() -> None:
    assert checked_stages(choices.ALIGNMENT_STAGES[::-1]) == choices.ALIGNMENT_STAGES


@pytest.mark.parametrize("name", choices.DEVICES)
def test_every_device_is_known_even_where_it_is_not_there(name: str) -> None:
    told = ""
    try:
        assert chosen_device(name).type in choices.DEVICES
    except InputError as error:
        told = str(error)
    assert "There is no device" not in told


@pytest.mark.parametrize("name", [*choices.DEVICES, "cuda:0", "cuda:12"])
def test_the_command_line_takes_every_device(name: str) -> None:
    given = ["register", "fixed", "moving", "out", "--device", name]
    assert parser().parse_args(given).device == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:1", "cuda:1234"])
def test_the_command_line_refuses_other_devices(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["register", "fixed", "moving", "out", "--device", name])
    assert f"'{name}' is not one of auto, cpu, cuda, mps, cuda:1 (the second GPU)" in capsys.readouterr().err
