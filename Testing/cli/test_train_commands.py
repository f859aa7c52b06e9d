"""The commands: every word of `finetune` reaches the description of the training."""

from operator import attrgetter
from pathlib import Path

import pytest

from RegistrationNetLib.cli import train_commands
from RegistrationNetLib.cli.main import main
from RegistrationNetLib.training.configuration import Configuration
from RegistrationNetLib.training.data import DataOptions


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Configuration, bool]]:
    """What trainings were asked for, and whether to resume; none is carried out."""
    seen: list[tuple[Configuration, bool]] = []

    def train(description: Configuration, *, resume: bool, progress: object) -> None:  # noqa: ARG001
        seen.append((description, resume))

    monkeypatch.setattr(train_commands, "train", train)
    return seen


def described(asked: list[tuple[Configuration, bool]], *more: str) -> Configuration:
    words = ["finetune", "--model", "unigradicon", "--name", "own", "--data", ".", "--out", "out", "--quiet", *more]
    assert main(words) == 0
    return asked[-1][0]


@pytest.mark.parametrize(
    ("words", "what", "expected"),
    [
        ("--masks m", "data.masks", Path("m")),
        ("--labels l", "data.labels", Path("l")),
        ("--modality ct", "data.modality", "ct"),
        ("--unreadable skip", "data.unreadable", "skip"),
        ("--data d.csv", "data.list", Path("d.csv")),
        ("--weights w.trch", "start", Path("w.trch")),
        ("--steps 7", "learning.steps", 7),
        ("--batch 3", "learning.batch", 3),
        ("--learning-rate 0.5", "learning.learning_rate", 0.5),
        ("--similarity ssd", "loss.similarity", "ssd"),
        ("--smoothness 2", "loss.smoothness", 2.0),
        ("--dice-weight 4", "learning.dice_weight", 4.0),
        ("--precision bfloat16", "learning.precision", "bfloat16"),
        ("--device cpu", "device", "cpu"),
        ("--seed 5", "learning.seed", 5),
        ("--no-pictures", "record.pictures", False),
        ("--model multigradicon", "model", "multigradicon"),
        ("--out there", "out", Path("there")),
    ],
)
def test_a_word_of_finetune_is_in_the_description(
    asked: list[tuple[Configuration, bool]], words: str, what: str, expected: object
) -> None:
    assert attrgetter(what)(described(asked)) != expected
    assert attrgetter(what)(described(asked, *words.split())) == expected


@pytest.mark.parametrize(("word", "expected"), [("v.csv", DataOptions(list=Path("v.csv"))), (".", DataOptions(folder=Path()))])
def test_an_early_look_is_at_a_list_or_a_folder(
    asked: list[tuple[Configuration, bool]], word: str, expected: DataOptions
) -> None:
    assert described(asked).validation is None
    assert described(asked, "--validation", word).validation == expected


def test_fine_tuning_keeps_statistics_and_turns_images_a_little(asked: list[tuple[Configuration, bool]]) -> None:
    plain = described(asked)
    assert plain.start == "weights"
    assert plain.learning.keep_statistics
    assert plain.learning.augmentation.affine == train_commands.FINETUNE_AFFINE


@pytest.mark.parametrize("is_resumed", [False, True])
def test_resume_is_passed_on(asked: list[tuple[Configuration, bool]], is_resumed: bool) -> None:
    described(asked, *["--resume"] * is_resumed)
    assert asked[-1][1] == is_resumed
