"""A whole training: what it leaves behind, that it resumes exactly, and what stops it."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors import safe_open

from RegistrationNetLib import register
from RegistrationNetLib.cli.main import main
from RegistrationNetLib.errors import Cancelled, InputError, RefinementError, WeightsError
from RegistrationNetLib.models.catalogue import card_named, cards
from RegistrationNetLib.models.checkpoint import save_as_published
from RegistrationNetLib.progress import Progress
from RegistrationNetLib.registration.methods import untrained_network
from RegistrationNetLib.slicer_bridge.client import Client
from RegistrationNetLib.training import cohort_images
from RegistrationNetLib.training import learning as learning_module
from RegistrationNetLib.training.configuration import Configuration
from RegistrationNetLib.training.data import pairs_of
from RegistrationNetLib.training.learning import Objective, TrainingLoss, drawn_batch, step_random
from RegistrationNetLib.training.run import CHECKPOINT, _loss_options, starting_network, train
from RegistrationNetLib.training.state import Trainee

from ..worker_input import pair
from .tiny import described, write_images

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.usefixtures("tiny", "one_thread")]


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stopping_after(fraction: float) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        if now.stage == "train" and now.fraction > fraction:
            raise Cancelled("cancelled")

    return progress


def test_a_training_leaves_checkpoint_curves_and_a_model(tmp_path: Path) -> None:
    trained = train(described(tmp_path, validation={"synthetic": "anatomy"}))
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {CHECKPOINT, "tiny-own.trch", "tiny-own.card.json", "steps.csv", "validation.csv"}
    assert trained.steps == 6
    assert len((tmp_path / "out" / "steps.csv").read_text().splitlines()) == 7
    assert [line.split(",")[0] for line in (tmp_path / "out" / "validation.csv").read_text().splitlines()] == ["step", "3", "6"]


def test_a_training_changes_the_weights(tmp_path: Path) -> None:
    description = described(tmp_path)
    untrained = starting_network(description).state_dict()
    learnt = weights(train(description).weights)
    assert not torch.equal(learnt["net.last.weight"], untrained["net.last.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": {"diffusion_steps": 3}},
        {"schedule": {"kind": "cosine", "warm_up": 2}, "learning": {"ema": 0.8}, "loss": {"diffusion_steps": 3}},
        {"schedule": {"kind": "step", "every": 2}},
    ],
)
@pytest.mark.parametrize("stopped_after", [0.3, 0.6])
def test_an_interrupted_training_goes_on_as_if_it_had_not_been(
    tmp_path: Path, stopped_after: float, changes: dict[str, Any]
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = train(described(tmp_path / "whole", **changes))
    parts = described(tmp_path / "parts", **changes)
    with pytest.raises(Cancelled):
        train(parts, progress=stopping_after(stopped_after))
    assert not same(weights(tmp_path / "parts/out/tiny-own.trch"), weights(whole.weights))
    assert same(weights(train(parts, resume=True).weights), weights(whole.weights))
    curves = [(tmp_path / which / "out" / "steps.csv").read_text().splitlines() for which in ("whole", "parts")]
    first, second = ([line.rsplit(",", 1)[0] for line in lines] for lines in curves)  # all but the seconds
    assert first == second


def test_a_killed_training_goes_on_from_its_last_checkpoint_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    whole = train(described(tmp_path / "whole"))
    made, after = learning_module.step_random, 3

    def dies(seed: int, number: int, rank: int) -> torch.Generator:
        if number == after:
            raise KeyboardInterrupt
        return made(seed, number, rank)

    with monkeypatch.context() as patch:
        patch.setattr(learning_module, "step_random", dies)
        with pytest.raises(KeyboardInterrupt):
            train(described(tmp_path))
    assert same(weights(train(described(tmp_path), resume=True).weights), weights(whole.weights))


def test_more_steps_go_on_from_the_end(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = train(described(tmp_path / "whole"))
    train(described(tmp_path, learning={"steps": 4}))
    assert same(weights(train(described(tmp_path), resume=True).weights), weights(whole.weights))


def test_the_first_steps_learn_by_diffusion_and_the_others_by_the_methods_own_loss(tmp_path: Path) -> None:
    for name in ("begin", "both", "plain"):
        (tmp_path / name).mkdir()
    loss = {"diffusion_steps": 3, "diffusion": 4.0}
    begin = train(described(tmp_path / "begin", learning={"steps": 2}, loss=loss))
    both = train(described(tmp_path / "both", loss=loss))
    train(described(tmp_path / "plain"))
    assert (begin.steps, both.steps) == (2, 6)
    weight = {}
    for name in ("begin", "both", "plain"):
        with (tmp_path / name / "out" / "steps.csv").open() as lines:
            rows = list(csv.DictReader(lines))
        weight[name] = [
            (float(row["total"]) - float(row["similarity"])) / float(row["regularity"]) for row in rows[1:]
        ]  # nothing moves at first
    assert weight["begin"] == pytest.approx([4.0], rel=1e-3)
    assert weight["both"] == pytest.approx([4.0, 4.0, 1.5, 1.5, 1.5], rel=1e-3)
    assert weight["plain"] == pytest.approx([1.5] * 5, rel=1e-3)


def test_the_schedule_is_that_of_the_whole_training_also_in_its_first_steps_by_diffusion(tmp_path: Path) -> None:
    rates: list[float] = []

    def noted(self: Trainee, rate: float) -> None:
        rates.append(rate)
        self.steps += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainee, "step", noted)
        train(described(tmp_path, out="noted", schedule={"kind": "cosine"}, loss={"diffusion_steps": 2}))
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * number / 5)) for number in range(6)])


def test_more_steps_of_a_cosine_are_another_training(tmp_path: Path) -> None:
    train(described(tmp_path, learning={"steps": 4}, schedule={"kind": "cosine"}))
    with pytest.raises(InputError, match=r"made with steps = 4; .* now it is 6"):
        train(described(tmp_path, schedule={"kind": "cosine"}), resume=True)


def test_the_running_mean_is_what_is_judged_and_exported_and_the_weights_learn_on(tmp_path: Path) -> None:
    seen: dict[str, list[str]] = {}
    learnt = {}
    for name, learning in {"plain": {}, "mean": {"ema": 0.5}}.items():
        description = described(tmp_path, out=name, learning=learning, validation={"synthetic": "anatomy"})
        trained = train(description)
        with safe_open(tmp_path / name / CHECKPOINT, framework="pt") as file:
            kept = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
        learnt[name] = kept["network.net.last.weight"]
        seen[name] = (tmp_path / name / "validation.csv").read_text().splitlines()
        exported = "average" if learning else "network"
        assert same(weights(trained.weights), {
            key.removeprefix(f"{exported}."): value for key, value in kept.items() if key.startswith(exported)
        })  # fmt: skip
    assert torch.equal(learnt["plain"], learnt["mean"])
    assert seen["plain"] != seen["mean"]


def test_weights_come_out_in_half_precision_if_wanted(tmp_path: Path) -> None:
    single, half = (
        weights(train(described(tmp_path, out=str(is_half), record={"half_precision": is_half})).weights)
        for is_half in (False, True)
    )
    assert half["net.last.weight"].dtype == torch.float16
    assert half["net.norm.running_var"].dtype == torch.float32
    assert torch.equal(half["net.last.weight"], single["net.last.weight"].half())


def test_parameters_of_the_card_are_replaced_and_told_by_the_card_of_the_new_model(tmp_path: Path) -> None:
    asked = {"model": "carl", "shape": [16, 16], "learning": {"steps": 1, "batch": 1}}
    small = {"composition": "small", "has_fourth_step": False}
    description = described(tmp_path, parameters=small, **asked)
    trained = train(description)
    assert trained.card.parameters == small
    assert json.loads((tmp_path / "out" / "tiny-own.card.json").read_text())["parameters"] == small
    assert sum(value.numel() for name, value in weights(trained.weights).items() if "net.net.batchnorms" in name) > 0
    with pytest.raises(InputError, match=r"made with parameters = .*'small'.* now it is \{'has_fourth_step'"):
        train(described(tmp_path, parameters={"has_fourth_step": False}, **asked), resume=True)
    with pytest.raises(InputError, match="no composition 'tiny' of CARL"):
        train(described(tmp_path, out="other", parameters={"composition": "tiny"}, **asked))


def test_a_second_start_decodes_nothing_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    held_out = {"data": {"folder": "images"}, "validation": {"folder": "images", "labels": "labels"}}
    whole = train(described(tmp_path, out="whole", **held_out))
    parts = described(tmp_path, out="parts", loading={"cache": "cache"}, **held_out)
    with pytest.raises(Cancelled):
        train(parts, progress=stopping_after(0.3))
    assert (tmp_path / "parts" / "survey.json").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 6

    def refuse(*_: object) -> None:
        raise AssertionError("an image is decoded again")

    monkeypatch.setattr(cohort_images, "checked_image", refuse)
    assert same(weights(train(parts, resume=True).weights), weights(whole.weights))


@pytest.mark.slow
def test_loader_processes_give_the_very_same_training(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    data = {"data": {"folder": "images", "labels": "labels"}, "loss": {"diffusion_steps": 2}}
    whole = train(described(tmp_path, out="whole", **data))
    parts = described(tmp_path, out="parts", loading={"processes": 2}, **data)
    with pytest.raises(Cancelled):
        train(parts, progress=stopping_after(0.4))
    assert same(weights(train(parts, resume=True).weights), weights(whole.weights))


@pytest.mark.slow
def test_an_image_that_a_loader_cannot_read_ends_the_training_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "run.toml").write_text(
        'model = "tiny"\nname = "cut"\nout = "out"\n[data]\nfolder = "images"\n[loading]\nprocesses = 1\nmemory_mb = 0\n'
        "[record]\npictures = false\n"
    )
    good, spoil = learning_module.worked_ahead, tmp_path / "images" / "b.nii.gz"

    def spoilt(*arguments: Any, **options: Any) -> Any:
        spoil.write_bytes(b"nothing")
        return good(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_module, "worked_ahead", spoilt)
        assert main(["train", str(tmp_path / "run.toml"), "--quiet"]) == InputError.exit_status
    (line,) = capsys.readouterr().err.splitlines()
    assert "b.nii.gz cannot be read as an image" in line


def test_another_seed_is_another_training(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = train(described(tmp_path)), train(described(tmp_path / "other", learning={"seed": 1}))
    assert not same(weights(one.weights), weights(other.weights))


def test_a_folder_that_holds_a_training_is_not_overwritten(tmp_path: Path) -> None:
    train(described(tmp_path))
    with pytest.raises(InputError, match="holds a training already; --resume"):
        train(described(tmp_path))


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    train(described(tmp_path, learning={"steps": 2}))
    with pytest.raises(InputError, match=r"made with batch = 2.* now it is 3"):
        train(described(tmp_path, learning={"batch": 3}), resume=True)


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint .*Start without --resume"):
        train(described(tmp_path), resume=True)


def test_a_loss_that_is_not_finite_stops_and_the_last_good_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = learning_module.drawn_batch
    calls: list[int] = []

    def poisoned(*arguments: object) -> object:
        pair = drawn(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 4:
            return replace(pair, fixed=replace(pair.fixed, values=pair.fixed.values * float("nan")))
        return pair

    monkeypatch.setattr(learning_module, "drawn_batch", poisoned)
    with pytest.raises(RefinementError, match=rf"loss of step 4 is not finite.*last good checkpoint is kept in .*{CHECKPOINT}"):
        train(described(tmp_path))
    kept = weights(tmp_path / "out" / "tiny-own.trch")
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())
    two = tmp_path / "two"
    two.mkdir()
    assert same(kept, weights(train(described(two, learning={"steps": 2})).weights))


def test_a_trained_model_registers_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = train(described(tmp_path, learning={"steps": 2}))
    assert "tiny-own" not in cards()
    assert main(["models", "import", "tiny-own", str(trained.weights)]) == 0
    assert card_named("tiny-own").input_shape == (16, 20)
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", size=(40, 36))
    fixed, moving = (str(tmp_path / "images" / name) for name in ("a.nii.gz", "b.nii.gz"))
    assert main(["register", fixed, moving, str(tmp_path / "result"), "--model", "tiny-own", "--refine", "none", "--quiet"]) == 0
    assert json.loads((tmp_path / "result" / "report.json").read_text())["model"] == "tiny-own"
    result = register(fixed, moving, model="tiny-own", refine="none")
    again = sitk.ReadImage(str(tmp_path / "result" / "warped.nii.gz"))
    assert np.allclose(sitk.GetArrayFromImage(result.warped), sitk.GetArrayFromImage(again), atol=1e-4)
    assert main(["models", "remove", "tiny-own"]) == 0
    assert "tiny-own" not in cards()
    capsys.readouterr()


def test_fine_tuning_starts_from_the_weights_of_a_model(tmp_path: Path) -> None:
    first = train(described(tmp_path, learning={"steps": 3}))
    started = starting_network(described(tmp_path, start=str(first.weights)))
    assert same(started.state_dict(), weights(first.weights))
    with pytest.raises(WeightsError, match="weights of tiny are not on this machine"):
        starting_network(described(tmp_path, start="weights"))


def finetune(tmp_path: Path, name: str, *more: str) -> dict[str, torch.Tensor]:
    out = tmp_path / name
    command = ["finetune", "--model", "tiny-own", "--name", name, "--data", str(tmp_path / "images"), "--out", str(out)]
    assert main([*command, "--steps", "2", "--learning-rate", "0.001", "--no-pictures", "--quiet", "--device", "cpu", *more]) == 0
    return weights(out / f"{name}.trch")


def test_every_option_of_fine_tuning_changes_the_weights(tmp_path: Path) -> None:
    trained = train(described(tmp_path, learning={"steps": 2}))
    assert main(["models", "import", "tiny-own", str(trained.weights), "--quiet"]) == 0
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    half = sitk.ReadImage(str(tmp_path / "masks" / "a.nii.gz"))
    half[:10, :] = 0
    sitk.WriteImage(half, str(tmp_path / "masks" / "a.nii.gz"))
    plain = finetune(tmp_path, "plain")
    assert same(plain, finetune(tmp_path, "again"))
    assert torch.equal(plain["net.norm.running_mean"], weights(trained.weights)["net.norm.running_mean"])
    labels = ("--labels", str(tmp_path / "labels"))
    options = {
        "labels": labels,
        "masks": ("--masks", str(tmp_path / "masks")),
        "similarity": ("--similarity", "ssd"),
        "smoothness": ("--smoothness", "100"),
        "steps": ("--steps", "3"),
        "batch": ("--batch", "2"),
        "rate": ("--learning-rate", "0.01"),
        "seed": ("--seed", "4"),
        "start": ("--weights", str(tmp_path / "plain" / "plain.trch")),
        "modality": ("--modality", "ct"),
    }
    learnt = {name: finetune(tmp_path, name, *more) for name, more in options.items()}
    learnt["dice"] = finetune(tmp_path, "dice", *labels, "--dice-weight", "30")
    for name, values in learnt.items():
        assert not same(values, plain), name
    assert not same(learnt["dice"], learnt["labels"])


@pytest.mark.slow
def test_unigradicons_network_is_fine_tuned_with_labels_and_masks_and_the_worker_takes_it(tmp_path: Path) -> None:
    card = card_named("unigradicon")
    torch.manual_seed(0)
    published = tmp_path / "published.trch"
    save_as_published(untrained_network(card), card, published)
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz", size=(20, 22, 18))
    description = described(
        tmp_path, model="unigradicon", name="fine-own", shape=[32, 32, 32], start=str(published),
        learning={"steps": 1, "batch": 1, "keep_statistics": True},
        data={"folder": "images", "labels": "labels", "masks": "masks", "modality": "mr"},
    )  # fmt: skip
    trained = train(description)
    before, after = weights(published), weights(trained.weights)
    assert before.keys() == after.keys()
    assert not same(before, after)
    assert same(*({name: value for name, value in one.items() if "running" in name} for one in (before, after)))
    assert main(["models", "import", "fine-own", str(trained.weights), "--quiet"]) == 0
    with Client() as client:
        result = client.register(pair(), options={"model": "fine-own", "refine": "none"}).wait()
    assert result.report["model"] == "fine-own"


def test_the_command_says_how_to_use_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text(
        'model = "tiny"\nname = "said"\nout = "out"\n[learning]\nsteps = 1\n[data]\nsynthetic = "anatomy"\n[record]\npictures = false\n'
    )
    assert main(["train", str(tmp_path / "run.toml")]) == 0
    assert f"registrationnet models import said {tmp_path / 'out' / 'said.trch'}" in capsys.readouterr().out


def test_files_that_cannot_be_read_are_named_and_left_out_if_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    (tmp_path / "images" / "b.nii.gz").write_bytes(b"no image")
    data = {"folder": "images"}
    with pytest.raises(InputError, match=r'b\.nii\.gz cannot be read.*set unreadable = "skip"'):
        train(described(tmp_path, data=data))
    trained = train(described(tmp_path, data={**data, "unreadable": "skip"}))
    assert [one.image.name for one in trained.skipped] == ["b.nii.gz"]
    assert "b.nii.gz" in (tmp_path / "out" / "skipped.csv").read_text()
    capsys.readouterr()


SCRIPT = """
import sys
from pathlib import Path
import torch
from Testing.training.tiny import described, install
from RegistrationNetLib.training.run import train
torch.set_num_threads(1)
install()
train(described(Path(sys.argv[1]), learning={"steps": 3, "batch": 1}))
"""


def by_torchrun(folder: Path, port: int) -> None:
    """The script in two processes, which PyTorch's own launcher starts."""
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    told = subprocess.run(
        [*launcher, str(script), str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True, timeout=500,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr


def learnt_by_hand(description: Configuration, *, processes: int) -> dict[str, torch.Tensor]:
    """The parameters after steps along the mean of the gradients of the pairs that so many processes draw."""
    options, loss = description.learning, _loss_options(description).loss
    pairs, _ = pairs_of(description.data, description.card, description.lattice)
    trainee = Trainee(starting_network(description).train())
    objective = Objective(trainee.network, cast(TrainingLoss, loss), options.dice_weight)
    for number in range(options.steps):
        for rank in range(processes):
            random = step_random(options.seed, number, rank)
            (objective(drawn_batch(pairs, options, random), random)[0] / processes).backward()
        trainee.step(options.learning_rate)
    return {name: value.detach() for name, value in trainee.network.named_parameters()}


@pytest.mark.parametrize("processes", [1, 2])
def test_the_steps_of_several_processes_follow_the_mean_of_their_gradients(tmp_path: Path, processes: int) -> None:
    """By hand, so that the test with real processes has a truth."""
    description = described(tmp_path, learning={"steps": 3, "batch": 1})
    learnt, alone = learnt_by_hand(description, processes=processes), weights(train(description).weights)
    is_near = all(torch.allclose(value, alone[name], atol=1e-5) for name, value in learnt.items())
    assert is_near == (processes == 1)


@pytest.mark.slow
def test_two_processes_of_torchrun_train_one_model_on_the_pairs_of_both(tmp_path: Path, free_port: int) -> None:
    by_torchrun(tmp_path / "two", free_port)
    two = weights(tmp_path / "two" / "out" / "tiny-own.trch")
    expected = learnt_by_hand(described(tmp_path, learning={"steps": 3, "batch": 1}), processes=2)
    for name, value in expected.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=0)
    assert (tmp_path / "two" / "out" / "steps.csv").read_text().count("\n") == 4


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.slow
@pytest.mark.parametrize("loaders", [0, 2])
def test_ctrl_c_leaves_a_checkpoint_and_says_so(tmp_path: Path, loaders: int) -> None:
    script = SCRIPT.replace(
        "train(described", "from RegistrationNetLib.cli.main import main; sys.exit(main(['train', sys.argv[1]]))\ntrain(described"
    )
    (tmp_path / "run.toml").write_text(
        'model = "tiny"\nname = "stopped"\nout = "out"\n[learning]\nsteps = 1000000\n[data]\nsynthetic = "anatomy"\n[record]\npictures = false\n'
        f"[loading]\nprocesses = {loaders}\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run.toml")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as one:
        while not (tmp_path / "out" / "steps.csv").exists():
            assert one.poll() is None
        os.killpg(one.pid, signal.SIGINT)  # as a terminal does
        _, told = one.communicate(timeout=300)
    assert one.returncode == 130
    assert told.splitlines()[-1].startswith("registrationnet: cancelled; --resume goes on from")
    assert "Traceback" not in told
    assert (tmp_path / "out" / CHECKPOINT).exists()


@pytest.mark.slow
def test_nephi_learns_resumes_and_gives_a_model_whose_encoder_begins_the_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", size=(40, 48))
    asked = {
        "model": "nephi",
        "name": "own-nephi",
        "shape": [48, 40],
        "learning": {"steps": 3},
        "validation": {"synthetic": "anatomy"},
    }
    trained = train(described(tmp_path, **asked))
    with pytest.raises(Cancelled):
        train(described(tmp_path, out="parts", **asked), progress=stopping_after(0.3))
    again = train(described(tmp_path, out="parts", **asked), resume=True)
    one, other = (torch.load(path, weights_only=True) for path in (trained.weights, again.weights))
    assert set(one) == {"encoder", "phi", "phi_inv", "epochs"}
    assert all(same(one[part], other[part]) for part in ("encoder", "phi", "phi_inv"))
    assert main(["models", "import", "own-nephi", str(trained.weights), "--quiet"]) == 0
    warped = [
        register(tmp_path / "images/a.nii.gz", tmp_path / "images/b.nii.gz", model=model, steps=0, align=[]).warped
        for model in ("own-nephi", "nephi")
    ]
    assert not np.array_equal(*(sitk.GetArrayViewFromImage(image) for image in warped))
    capsys.readouterr()


def test_labels_only_judge_nephi_and_masks_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path, "a.nii.gz", "b.nii.gz", size=(40, 48))
    asked = {"model": "nephi", "name": "own-nephi", "shape": [48, 40], "learning": {"steps": 2}}
    learnt = []
    for out, more in {"plain": {}, "labelled": {"labels": "labels"}}.items():
        data = {"folder": "images", "modality": "mr", **more}
        trained = train(described(tmp_path, out=out, data=data, validation=data, **asked))
        learnt.append(torch.load(trained.weights, weights_only=True)["phi"])
    assert same(*learnt)
    assert "nan" in (tmp_path / "plain" / "validation.csv").read_text()
    assert "nan" not in (tmp_path / "labelled" / "validation.csv").read_text()
    with pytest.raises(InputError, match="the pairs have masks. Leave the masks out"):
        train(described(tmp_path, out="masked", data={**data, "masks": "masks"}, **asked))


def test_a_lattice_too_small_for_nephi_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"halves images five times or more; got \[16, 12\]"):
        train(described(tmp_path, model="nephi", name="own-nephi", shape=[16, 12]))
