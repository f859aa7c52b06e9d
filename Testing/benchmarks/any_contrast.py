"""What a network that was trained by a recipe for painted images does on held-out label maps, beside affine alignment.

    python -m Testing.benchmarks.any_contrast docs/recipes/any-contrast-32.toml [--pairs 12] [--turns 0 15 30 60]

Pairs of one label map with a known map between two contrasts, each image turned by up to so much; and pairs of two label maps. Prints
means over the pairs: Dice of the labels as the images lie, by the true map (what the lattice allows), by affine alignment (that of the
library, all stages), by the network, and by the network after the alignment; and for known maps the median distance from the true place
within the body, in voxels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import GeometryError
from RegistrationNetLib.geometry.deformation import Affine, identity_points, sample, vector_length
from RegistrationNetLib.geometry.space import Grid
from RegistrationNetLib.losses.similarity import SquaredLNCC
from RegistrationNetLib.models.checkpoint import load_into
from RegistrationNetLib.models.composition import both_ways
from RegistrationNetLib.registration.alignment import STAGES, align
from RegistrationNetLib.registration.methods import untrained_network
from RegistrationNetLib.registration.prepare import Prepared
from RegistrationNetLib.training.configuration import Configuration, read_configuration
from RegistrationNetLib.training.data import pairs_of
from RegistrationNetLib.training.painting import PaintedPairs
from RegistrationNetLib.training.pairs import Pair
from RegistrationNetLib.training.validation import folded_percent, overlap

Mapped = Callable[[Tensor], Tensor]
FIRST_SEED = 1000  # training's looks take the seeds from 0 on
HEADER = (
    "| each image turned by up to | Dice before | true map | affine | network | affine, network "
    "| error before | affine | network | affine, network | folds of the network, % |"
)
WAYS = ("as they lie", "affine", "network", "affine, network")


def read_network(description: Configuration) -> nn.Module:
    """The network that the recipe has trained, as it was exported."""
    network = untrained_network(description.card)
    load_into(network, description.card, description.out / f"{description.name}.trch")
    return network.eval()


def affine_map(pair: Pair) -> Affine:
    """moving_from_fixed by the library's alignment; none where it finds no pose."""
    grid = Grid(tuple(pair.fixed.values.shape[2:]), np.eye(pair.fixed.values.dim() - 1))
    fixed, moving = (Prepared(one.values, grid) for one in (pair.fixed, pair.moving))
    start = np.eye(grid.dim + 1)
    try:
        world = align(fixed, moving, start=start, stages=STAGES, measure=SquaredLNCC(), report=lambda _: None)
    except GeometryError:
        world = start
    unit = grid.unit_from_world @ world @ grid.world_from_unit
    return Affine(torch.tensor(unit[:-1], dtype=torch.float32))


@torch.no_grad()
def mapped(network: nn.Module, pair: Pair) -> dict[str, Tensor]:
    """The lattice of fixed in moving, by each way."""
    lattice = identity_points(pair.fixed.values.shape[2:], pair.fixed.values)
    affine = affine_map(pair)
    aligned = sample(pair.moving.values, affine(lattice), outside="zeros")
    return {
        "as they lie": lattice,
        "affine": affine(lattice),
        "network": both_ways(network, pair.moving.values, pair.fixed.values).moving_from_fixed(lattice),
        "affine, network": affine(both_ways(network, aligned, pair.fixed.values).moving_from_fixed(lattice)),
    }


def error_vox(points: Tensor, truth: Tensor, body: Tensor) -> float:
    """Median distance within the body, of a lattice of cubic voxels."""
    size = torch.tensor(points.shape[2:]).view(1, -1, *(1,) * (points.dim() - 2)) - 1
    return float(vector_length((points - truth) * size)[body].median())


def row(network: nn.Module, pairs: PaintedPairs, count: int, what: str) -> str:
    dice: dict[str, list[float]] = {way: [] for way in (*WAYS, "truth")}
    errors: dict[str, list[float]] = {way: [] for way in WAYS}
    folds = []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        random = torch.Generator().manual_seed(seed)
        known = None if pairs.options.two_maps else pairs.known(random)
        pair = pairs.draw(random) if known is None else known.pair
        found = mapped(network, pair)
        for way, points in found.items():
            dice[way].append(overlap(pair, points))
        folds.append(folded_percent(found["network"]))
        if known is not None:
            assert pair.fixed.labels is not None
            truth, body = known.moving_from_fixed(found["as they lie"]), pair.fixed.labels > 0
            dice["truth"].append(overlap(pair, truth))
            for way, points in found.items():
                errors[way].append(error_vox(points, truth, body))
    cells = [f"{fmean(dice[way]):.3f}" if dice[way] else "" for way in ("as they lie", "truth", *WAYS[1:])]
    cells += [f"{fmean(errors[way]):.2f}" if errors[way] else "" for way in WAYS]
    return f"| {what} | {' | '.join(cells)} | {fmean(folds):.2f} |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A network for any contrast, beside affine alignment")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--turns", type=float, nargs="+", default=[0, 15, 30, 60])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    description = read_configuration(options.recipe)
    assert description.validation is not None
    network, (held_out, _) = read_network(description), pairs_of(description.validation, description.card, description.lattice)
    assert isinstance(held_out, PaintedPairs)
    start = time.process_time()
    print(HEADER)
    print(f"|{' --- |' * 11}")
    for turn in options.turns:
        painting = replace(held_out.options, turn_degrees=turn, shapes=0.0, two_maps=0.0)
        print(row(network, replace(held_out, options=painting), options.pairs, f"{turn:g}°, one head"), flush=True)
    painting = replace(held_out.options, shapes=0.0, two_maps=1.0)
    what = f"{held_out.options.turn_degrees:g}°, two heads"
    print(row(network, replace(held_out, options=painting), options.pairs, what))
    print(f"{time.process_time() - start:.0f} s of processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
