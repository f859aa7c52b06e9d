"""A whole training, from its description to a model of its own.

The output folder receives `checkpoint.safetensors`, the model (`NAME.trch`, `NAME.card.json`), `steps.csv`, `validation.csv`,
`curves.png`, a picture of a pair at every look, `survey.json` where there is a cohort, and `skipped.csv` where files of it were
left out.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import nn

from ..devices import chosen_device
from ..errors import Cancelled, InputError, RefinementError
from ..io.outputs import check_folder_name, staged
from ..models.carl import DiffusionLoss
from ..models.catalogue import Card
from ..models.checkpoint import load_into
from ..models.weights import weights_file
from ..progress import ProgressCallback, Stages, silent
from ..registration.methods import untrained_network
from ..registration.network_refinement import NetworkOptions, network_options
from .checkpoints import load_checkpoint, save_checkpoint
from .cohort_images import Skipped
from .configuration import Configuration
from .data import pairs_of
from .export import own_card, write_model
from .learning import Objective, Step, TrainingLoss, learning_in_turn
from .pairs import Pair
from .processes import Processes, launched
from .record import Record
from .state import Trainee
from .survey import kept_survey
from .validation import look

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Trained:
    """What came out: the file of weights, its card beside it, the last step, and the files of the cohort that were left out."""

    weights: Path
    card: Card
    steps: int
    skipped: tuple[Skipped, ...]


def train(description: Configuration, *, resume: bool = False, progress: ProgressCallback = silent) -> Trained:
    """Train as `description` says.

    Stopped by `Cancelled` from `progress`, it leaves a checkpoint and the model of the last step behind.

    Args:
        resume: go on from the checkpoint in the output folder; the result is, bit for bit, that of a training in one go.
        progress: hears the stages "read" and "train", and stops the work by raising `Cancelled`.

    Raises:
        InputError: the data, the model or the checkpoint cannot be used; or the output folder holds a training that was not to
            be resumed.
        RefinementError: the loss is not finite; the message names the last good checkpoint.
        OutputError: the output folder cannot be written.
    """
    check_folder_name(description.out)
    checkpoint = description.out / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise InputError(f"{description.out} holds a training already; --resume goes on with it. Else give another folder.")
    description.out.mkdir(parents=True, exist_ok=True)
    with launched(chosen_device(description.device)) as (processes, device):
        run = _Run(description, processes, device, Stages(progress, {"read": 0.02, "train": 0.98}))
        if resume:
            load_checkpoint(run.trainee, checkpoint, description.made_with())
        return run.carry_out()


class _Run:
    """One process's part of a training: everything it takes, made once."""

    def __init__(self, description: Configuration, processes: Processes, device: torch.device, stages: Stages) -> None:
        self.description, self.processes, self.stages = description, processes, stages
        report = stages.begin("read")
        self.looked_at: list[Pair] = []
        with kept_survey(description.out, is_shared=processes.count > 1) as usable:
            read = partial(
                pairs_of, card=description.card, lattice=description.lattice, loading=description.loading, usable=usable
            )
            self.pairs, skipped = read(description.data, report=report)
            if description.validation and processes.is_first:
                # Loaders have their share of the memory; held-out images are read by this process, at once.
                held_out, more = read(description.validation, loading=replace(description.loading, processes=0))
                self.looked_at, skipped = held_out.first(description.record.validation_pairs), skipped + more
        self.looked_at = [pair.to(device) for pair in self.looked_at]
        self.skipped = skipped
        self.saved_at = -1
        self.options = _loss_options(description)
        self.trainee = Trainee(starting_network(description).to(device), ema=description.learning.ema)
        self.objective = Objective(self.trainee.network, self.loss, description.learning.dice_weight)
        self.card = own_card(
            description.card, description.name, shape=description.lattice,
            refine=_changed_loss(description), trained_on=_described(description),
        )  # fmt: skip

    @property
    def loss(self) -> TrainingLoss:
        return cast(TrainingLoss, self.options.loss)

    @property
    def checkpoint(self) -> Path:
        return self.description.out / CHECKPOINT

    def carry_out(self) -> Trained:
        report = self.stages.begin("train")
        try:
            with closing(self._recorded()) as steps:
                for step in steps:
                    report(step.number / self.description.learning.steps)
        except RefinementError as error:
            kept = f"The last good checkpoint is kept in {self.checkpoint}." if self.checkpoint.exists() else "None was kept yet."
            raise RefinementError(f"{error} {kept}") from error
        except Cancelled:
            self._save()  # `report` raises between steps
            raise
        self._save()
        self.processes.together()
        return Trained(self.description.out / f"{self.card.name}.trch", self.card, self.trainee.steps, self.skipped)

    def _recorded(self) -> Generator[Step, None, None]:
        """Steps, each of which is in the curves, with a look and a checkpoint when it is time."""
        wanted, options = self.description.record, self.description.learning
        begin = DiffusionLoss(self.loss.similarity, weight=self.description.loss.diffusion, outside=self.loss.outside)
        losses = [(begin, self.description.diffusion_steps), (self.loss, options.steps)]
        loaders = self.description.loading.processes
        steps = learning_in_turn(self.trainee, losses, self.pairs, options, processes=self.processes, loaders=loaders)
        if not self.processes.is_first:
            yield from steps
            return
        _write_skipped(self.skipped, self.description.out)
        record = Record(self.description.out, after=self.trainee.steps, pictures=wanted.pictures, tensorboard=wanted.tensorboard)
        with closing(record), closing(steps):
            for step in steps:
                record.step(step)
                is_last = step.number == options.steps
                if self.looked_at and (is_last or step.number % wanted.validate_every == 0):
                    with self.trainee.averaged():
                        record.look(step.number, look(self.objective, self.looked_at), self.objective, self.looked_at[0])
                if step.number % wanted.checkpoint_every == 0:
                    self._save()
                yield step

    def _save(self) -> None:
        if self.processes.is_first and self.saved_at != self.trainee.steps:
            self.saved_at = self.trainee.steps
            save_checkpoint(self.trainee, self.checkpoint, self.description.made_with())
            with self.trainee.averaged():
                in_half = self.description.record.half_precision
                write_model(self.trainee.network, self.card, self.description.out, in_half=in_half)


def starting_network(description: Configuration) -> nn.Module:
    """The network of the description's model with the weights that it starts from; random ones depend on its seed alone.

    Raises:
        WeightsError: the weights are missing, or those of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(description.learning.seed)
        network = untrained_network(_on_lattice(description))
    if description.start != "nothing":
        card = description.card
        file = weights_file(card) if description.start == "weights" else Path(description.start)
        load_into(network, card, file, network_of=untrained_network)
    return network


def _on_lattice(description: Configuration) -> Card:
    """The card, whose network may depend on the shape of the lattice."""
    return own_card(description.card, description.name, shape=description.lattice, refine={}, trained_on="")


def _loss_options(description: Configuration) -> NetworkOptions:
    similarity = description.loss.similarity or description.card.refine["network"]["similarity"]
    return network_options(description.card, similarity, smoothness=description.loss.smoothness)


def _changed_loss(description: Configuration) -> dict[str, object]:
    """What the card of the new model says otherwise than that of the old one, so that refinement goes on as training ended."""
    own = description.card.refine["network"]
    changed: dict[str, object] = {"weight": own["weight"] * description.loss.smoothness}
    if description.loss.similarity not in ("", own["similarity"]):
        measure = _loss_options(description).measure.as_dict()
        changed["similarity"] = measure.pop("name")
        changed |= {name: value for name, value in measure.items() if name in ("sigma_vox", "epsilon")}
    return changed


def _described(description: Configuration) -> str:
    what = description.data.synthetic or description.data.folder or description.data.list or "listed pairs"
    started = f", starting from {description.start}" if description.start != "nothing" else ""
    return f"{what}, {description.learning.steps} steps of {description.learning.batch} pairs{started}."


def _write_skipped(skipped: Iterable[Skipped], folder: Path) -> None:
    rows = [(str(one.image), one.reason) for one in skipped]
    if rows:
        with staged(folder / "skipped.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as lines:
            csv.writer(lines).writerows([("image", "reason"), *rows])
