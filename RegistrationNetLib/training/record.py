"""What a training leaves to look at: its curves as CSV and as a picture, a picture of a pair, and TensorBoard if asked for."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.deformation import jacobian_determinant, sample
from ..io.outputs import staged
from ..models.composition import BothWays, both_ways
from .learning import Objective, Step
from .pairs import Pair
from .validation import Look, mapped_points

Row = Mapping[str, float]


class Curves:
    """A table of numbers by step, in a CSV file that grows.

    A resumed training drops what was written after the step from which it goes on, so that no step stands there twice.

    Args:
        file: `NAME.csv`.
        after: the step after which lines are dropped; 0 for a new training.
    """

    def __init__(self, file: Path, *, after: int = 0) -> None:
        self.file = file
        self.rows = [row for row in _read(file) if row["step"] <= after] if after else []
        if file.exists():
            _write(file, self.rows)

    def add(self, row: Row) -> None:
        """Append one line; the first one names the columns."""
        is_new = not self.rows
        self.rows.append(dict(row))
        with self.file.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def _read(file: Path) -> list[Row]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            {name: int(value) if name == "step" else float(value) for name, value in row.items()} for row in csv.DictReader(lines)
        ]


def _write(file: Path, rows: Sequence[Row]) -> None:
    with staged(file) as temporary, temporary.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]) if rows else ())
        if rows:
            writer.writeheader()
        writer.writerows(rows)


class Record:
    """The curves `steps.csv` and `validation.csv` of a training in `folder`, with pictures and TensorBoard if wanted.

    Raises:
        InputError: pictures or TensorBoard are wanted, and the package that makes them is missing.
    """

    def __init__(self, folder: Path, *, after: int = 0, pictures: bool = True, tensorboard: bool = False) -> None:
        self.folder = folder
        self.draws = pictures
        if pictures:
            _figure()
        self.board = _board(folder) if tensorboard else None
        self.steps = Curves(folder / "steps.csv", after=after)
        self.looks = Curves(folder / "validation.csv", after=after)

    def step(self, step: Step) -> None:
        """The row of one step in `steps.csv`."""
        self._add(self.steps, "train", {"step": step.number, **{k: v for k, v in asdict(step).items() if k != "number"}})

    def look(self, number: int, seen: Look, objective: Objective, pair: Pair) -> None:
        """The look after step `number`, and the picture of one pair."""
        self._add(self.looks, "validation", {"step": number, **asdict(seen)})
        if self.draws:
            draw_curves(self.steps.rows, self.looks.rows, self.folder / "curves.png")
            draw_pair(objective, pair, self.folder / f"pair_{number:07d}.png")

    def close(self) -> None:
        """Ends the writing for TensorBoard, if there is any."""
        if self.board is not None:
            self.board.close()

    def _add(self, curves: Curves, kind: str, row: Row) -> None:
        curves.add(row)
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(f"{kind}/{name}", value, int(row["step"]))


def draw_curves(steps: Sequence[Row], looks: Sequence[Row], path: Path) -> None:
    """Similarity, regularity and folds against the step: of training in grey, of validation in colour."""
    figure = _figure()(figsize=(12, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("similarity", "regularity", "folded_percent"), strict=True):
        for rows, colour in ((steps, "0.7"), (looks, "tab:blue")):
            shown = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
            if shown:
                axes.plot(*zip(*shown, strict=True), color=colour, label="training" if rows is steps else "validation")
        axes.set(title=name.replace("_", " "), xlabel="step")
    with staged(path) as temporary:
        figure.savefig(temporary, dpi=80)


@torch.no_grad()
def draw_pair(objective: Objective, pair: Pair, path: Path) -> None:
    """What `draw_maps` shows, by the network as it predicts."""
    was_training = objective.network.training
    objective.network.eval()
    maps = both_ways(objective.network, pair.moving.values, pair.fixed.values)
    objective.network.train(was_training)
    draw_maps(maps, pair, path)


@torch.no_grad()
def draw_maps(maps: BothWays, pair: Pair, path: Path) -> None:
    """Fixed, moving, warped, their differences and the deformed grid, through the middle of the first axis."""
    points, _ = mapped_points(maps, pair)
    fixed, moving = pair.fixed.values, pair.moving.values
    warped = sample(moving, points)
    shown = {
        "fixed": fixed,
        "moving": moving,
        "warped": warped,
        "moving - fixed": moving - fixed,
        "warped - fixed": warped - fixed,
    }
    figure = _figure()(figsize=(15, 2.8), layout="constrained")
    panels = figure.subplots(1, 6)
    for axes, (name, values) in zip(panels, shown.items(), strict=False):
        low, colours = (-1, "RdBu") if "-" in name else (0, "gray")
        axes.imshow(_middle(values[:, 0]), vmin=low, vmax=1, cmap=colours, interpolation="nearest")
        axes.set_title(name)
    folds = _middle((jacobian_determinant(points) <= 0).float()[:, 0])
    panels[-1].imshow(np.where(folds > 0, 1.0, np.nan), vmin=0, vmax=1, cmap="autumn", origin="upper")
    across, down = (_middle(points[:, axis]) * (points.shape[axis] - 1) for axis in (-1, -2))
    for levels in (across, down):
        panels[-1].contour(levels, levels=np.arange(0, levels.max(), 4), colors="k", linewidths=0.5)
    panels[-1].set_title("grid, folds")
    for axes in panels:
        axes.set(xticks=[], yticks=[])
    with staged(path) as temporary:
        figure.savefig(temporary, dpi=80)


def _middle(values: Tensor) -> Any:
    """The slice through the middle of a volume [1, *shape], or the image itself: [rows, columns]."""
    flat = values[0].cpu()
    return (flat[flat.shape[0] // 2] if flat.dim() == 3 else flat).numpy()


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "The package matplotlib is missing; pictures need it. Run `pip install registrationnet[train]`, or set pictures = false."
        ) from error
    return Figure


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "The package tensorboard is missing; tensorboard = true needs it. Run `pip install tensorboard`, or leave it out."
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))
