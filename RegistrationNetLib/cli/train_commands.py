"""What the commands `train` and `finetune` do. `main.py` reads the command line and explains what fails."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from ..errors import Cancelled
from ..progress import silent
from ..training.augmentation import AugmentationOptions
from ..training.configuration import Configuration, LossOptions, RecordOptions, read_configuration
from ..training.data import DataOptions
from ..training.learning import LearningOptions
from ..training.processes import is_first_process
from ..training.run import CHECKPOINT, Trained, train
from .console import progress_bar, wants_json
from .interruption import Interruption

FINETUNE_AFFINE = 0.05


def run_train(options: Namespace, interruption: Interruption) -> int:
    """Train a model by a configuration file."""
    return _carry_out(read_configuration(options.config), options, interruption)


def run_finetune(options: Namespace, interruption: Interruption) -> int:
    """Train a model from the weights of another on."""

    def data(what: Path, *, masks: Path | None = None, labels: Path | None = None) -> DataOptions:
        folder, listed = (what, None) if what.is_dir() else (None, what)
        return DataOptions(folder, listed, (), "", masks, labels, options.modality, options.unreadable)

    description = Configuration(
        model=options.model,
        name=options.name,
        out=options.out,
        data=data(options.data, masks=options.masks, labels=options.labels),
        validation=data(options.validation) if options.validation else None,
        start=options.weights or "weights",
        device=options.device,
        learning=LearningOptions(
            steps=options.steps,
            batch=options.batch,
            learning_rate=options.learning_rate,
            seed=options.seed,
            precision=options.precision,
            keep_statistics=True,
            dice_weight=options.dice_weight,
            augmentation=AugmentationOptions(affine=FINETUNE_AFFINE),
        ),
        loss=LossOptions(options.similarity, options.smoothness),
        record=RecordOptions(pictures=not options.no_pictures),
    )
    return _carry_out(description, options, interruption)


def _carry_out(description: Configuration, options: Namespace, interruption: Interruption) -> int:
    is_talking = not options.quiet and is_first_process()
    checkpoint = description.out / CHECKPOINT
    try:
        with interruption.patient(), progress_bar(is_wanted=is_talking) as callback:
            trained = train(description, resume=options.resume, progress=interruption.checked(callback if is_talking else silent))
    except (KeyboardInterrupt, Cancelled):
        if not checkpoint.exists():
            raise
        if is_first_process():
            print(f"registrationnet: cancelled; --resume goes on from {checkpoint}", file=sys.stderr)
        return Cancelled.exit_status
    interruption.too_late()
    if wants_json(options) and is_first_process():
        print(
            json.dumps(
                {
                    "name": trained.card.name,
                    "steps": trained.steps,
                    "weights": str(trained.weights),
                    "skipped": [one.reason for one in trained.skipped],
                },
                indent=2,
            )
        )
    elif is_talking:
        _tell(trained)
    return 0


def _tell(trained: Trained) -> None:
    for one in trained.skipped:
        print(f"left out: {one.reason}")
    print(f"{trained.card.name}: {trained.steps} steps, {trained.weights}")
    print(f"To use it everywhere: registrationnet models import {trained.card.name} {trained.weights}")
