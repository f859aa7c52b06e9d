"""The pairwise fit of NePhi: accuracy beside direct, memory beside the size of the images, folds beside the regulariser's points.

    python -m Testing.benchmarks.nephi accuracy [--cases ch2,mni,lung] [--seed 0]
    python -m Testing.benchmarks.nephi memory [--sizes 128,256,512] [--steps 2] [--methods nephi,field,network]
    python -m Testing.benchmarks.nephi writing [--sizes 96,192,256]
    python -m Testing.benchmarks.nephi regularity [--points 10,16,64,256,1024] [--seeds 0,1,2]

All on one thread. Accuracy: both methods start from one alignment; errors are in mm over the foreground; seconds are those of
the processor, which other programs on the machine disturb least. Memory: the peak of resident memory above what the process
holds when both images (float32) are there, each in a fresh process. Regularity: a 2-D head of 128² warped by a known
map, with everything but the number of points as the card says, mean over the seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import SimpleITK as sitk
import torch
from torch import Tensor

from RegistrationNetLib.devices import PeakMemory
from RegistrationNetLib.geometry.deformation import identity_points, jacobian_determinant
from RegistrationNetLib.geometry.field_pair import FieldPair
from RegistrationNetLib.geometry.separable import apply_along_axes, interpolation_matrix, on
from RegistrationNetLib.geometry.space import Grid, grid_of, transform_from_map
from RegistrationNetLib.io.inputs import checked_pair
from RegistrationNetLib.io.nrrd import write_slabs
from RegistrationNetLib.losses.direction import Side, both_directions
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.layers.implicit import LocalMLP
from RegistrationNetLib.models.layers.latent import random_codes
from RegistrationNetLib.models.nephi import ImplicitMap, slabs
from RegistrationNetLib.quality.known_pair import AppearanceOptions, known_pair
from RegistrationNetLib.quality.known_warp import WarpOptions, error_mm
from RegistrationNetLib.quality.phantom import head_phantom
from RegistrationNetLib.registration.alignment import align
from RegistrationNetLib.registration.field_refinement import FieldOptions, refine_field
from RegistrationNetLib.registration.initial_transform import initial_of
from RegistrationNetLib.registration.measures import FIELD_MEASURES
from RegistrationNetLib.registration.method import Settings
from RegistrationNetLib.registration.methods import untrained_network
from RegistrationNetLib.registration.nephi_fit import ImplicitOptions, implicit_options, refine_implicit
from RegistrationNetLib.registration.network_refinement import network_options, refine_network
from RegistrationNetLib.registration.options import checked_options
from RegistrationNetLib.registration.prepare import Prepared, prepared, prepared_pair
from Testing.benchmarks.known_warps import case, data_folder
from Testing.models.layers.published import randomize

MEASURE = FIELD_MEASURES["lncc"]
MEGABYTE = 2**20


def silent(_: float) -> None:
    """A report that nobody reads."""


def options_of_card(**changes: object) -> ImplicitOptions:
    return replace(implicit_options(card_named("nephi").refine, MEASURE), **changes)  # type: ignore[arg-type]


# ---- accuracy ----


def accuracy(arguments: argparse.Namespace) -> None:
    print("| case | method | error mean | error p95 | folded % | inverse mean | processor s |\n|---|---|---|---|---|---|---|")
    for name in arguments.cases:
        one = case(name, arguments.seed, data_folder())
        options = checked_options("direct", modalities=("other", "other"))
        none = (None, None)
        pair = checked_pair((one.fixed, one.moving), modalities=("other", "other"), masks=none, labels=none)
        start = initial_of(None, pair)
        fixed, moving = prepared_pair(start.pair, options.preparation)
        matrix = align(fixed, moving, start=start.matrix, stages=options.align, measure=options.wide_measure, report=silent)
        aligned = replace(moving.carried(fixed.grid.moved(matrix)), grid=fixed.grid)
        counted = replace(fixed, mask=aligned.mask)

        def by_direct(
            counted: Prepared = counted, aligned: Prepared = aligned, options: Settings = options.settings
        ) -> FieldPair:
            assert isinstance(options, FieldOptions)
            return refine_field(counted, aligned, options, silent)

        def by_nephi(fixed: Prepared = fixed, moving: Prepared = moving, matrix: np.ndarray = matrix) -> FieldPair:
            return refine_implicit(fixed, moving, options_of_card(), silent, alignment=matrix).fields()

        for method, fit in (("direct", by_direct), ("nephi", by_nephi)):
            begun = time.process_time()
            fields = fit()
            seconds = time.process_time() - begun
            forward = transform_from_map(fields.moving_from_fixed, fixed.grid, fixed.grid.moved(matrix), like=fixed.values)
            error = error_mm(forward, one.known, one.foreground)
            numbers = (
                f"{error.mean:.3f} | {error.p95:.3f} | {folded_percent(fields):.4f} | {inverse_mm(fields):.3f} | {seconds:.1f}"
            )
            print(f"| {name} | {method} | {numbers} |", flush=True)


def folded_percent(fields: FieldPair) -> float:
    return 100 * float((jacobian_determinant(fields.moving_from_fixed.on_lattice()) <= 0).float().mean())


def inverse_mm(fields: FieldPair) -> float:
    """Mean distance in mm from each voxel to where both maps take it."""
    there = fields.moving_from_fixed.on_lattice()
    missing = fields.fixed_from_moving(there) - identity_points(fields.grid.shape, there)
    lengths = missing.new_tensor(fields.grid.extent_mm).view(1, -1, *(1,) * fields.grid.dim)
    return float((missing * lengths).norm(dim=1).mean())


# ---- memory ----


def memory(arguments: argparse.Namespace) -> None:
    print("| size | method | peak above the images, MB | images, MB | processor s |\n|---|---|---|---|---|")
    for size in arguments.sizes:
        for method in arguments.methods:
            command = [sys.executable, "-m", "Testing.benchmarks.nephi", "memory", "--one", method, "--sizes", str(size)]
            done = subprocess.run([*command, "--steps", str(arguments.steps)], check=True, capture_output=True, text=True)
            one = json.loads(done.stdout)
            print(f"| {size} | {method} | {one['peak']:.0f} | {one['images']:.0f} | {one['seconds']:.1f} |", flush=True)


def one_peak(method: str, size: int, steps: int) -> None:
    pair = [Prepared(smooth_image(size, seed), Grid((size,) * 3, np.eye(4))) for seed in (0, 1)]
    begun, held = time.process_time(), psutil.Process().memory_info().rss / MEGABYTE
    with PeakMemory(torch.device("cpu"), 0.005) as watched:
        MEMORY[method](pair[0], pair[1], steps)
    images = 2 * 4 * size**3 / MEGABYTE
    print(json.dumps({"peak": watched.peak_mb - held, "images": images, "seconds": time.process_time() - begun}))


def by_network(fixed: Prepared, moving: Prepared, steps: int) -> None:
    """uniGradICON's, with random weights, on the lattice of the images (a registration takes 175³, whatever they are)."""
    card = card_named("unigradicon")
    network = untrained_network(card).eval()
    randomize(network, displacement=0.001)
    options = network_options(card, "lncc", steps=steps)
    refine_network(
        network, both_directions(Side(fixed.values), Side(moving.values), options.directions(1.0)), options, report=silent
    )


MEMORY: dict[str, Callable[[Prepared, Prepared, int], object]] = {
    "nephi": lambda fixed, moving, steps: refine_implicit(fixed, moving, options_of_card(steps=steps), silent),
    "field": lambda fixed, moving, steps: refine_field(fixed, moving, FieldOptions(MEASURE, steps=steps), silent),
    "network": by_network,
}


def smooth_image(size: int, seed: int) -> Tensor:
    """Smooth noise [1, 1, size, size, size], made a few layers at a time."""
    coarse = torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(seed))
    image = torch.empty(1, 1, size, size, size)
    (matrix,) = on([interpolation_matrix(size, 24)], image)
    for rows in torch.arange(size).split(8):
        image[:, :, rows[0] : rows[-1] + 1] = apply_along_axes(coarse, [matrix[rows], matrix, matrix])
    return image


# ---- writing ----


def writing(arguments: argparse.Namespace) -> None:
    """The map of networks and codes of full size as a file, slab by slab."""
    network = LocalMLP(3, latent_channels=24, width=32, frequencies=16)
    codes = random_codes((8, 16), (50, 50, 50), torch.Generator().manual_seed(0), like=torch.zeros(()), smooth=True)
    print("| size | peak above the network, MB | processor s |\n|---|---|---|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            begun, held = time.process_time(), psutil.Process().memory_info().rss / MEGABYTE
            with PeakMemory(torch.device("cpu"), 0.01) as watched:
                grid, file = Grid((size,) * 3, np.eye(4)), Path(folder) / "field.nrrd"
                mapped = slabs(ImplicitMap(network, codes), grid.shape, codes.local)
                moved = ((to - points)[0].movedim(0, -1).numpy() for _, points, to in mapped)
                write_slabs(moved, file, shape=(*grid.shape, 3), world_from_index=grid.world_from_voxel)
        print(f"| {size} | {watched.peak_mb - held:.0f} | {time.process_time() - begun:.1f} |", flush=True)


# ---- regularity ----


def regularity(arguments: argparse.Namespace) -> None:
    print("| points | share of the voxels % | folded % | error mean, mm |\n|---|---|---|---|")
    for points in arguments.points:
        results = [folds_and_error(points, seed) for seed in arguments.seeds]
        folded, error = np.mean(results, axis=0)
        print(f"| {points} | {100 * points / 128**2:.3f} | {folded:.4f} | {error:.3f} |", flush=True)


def folds_and_error(points: int, seed: int) -> tuple[float, float]:
    head = head_phantom([256, 256], [0.8, 0.8], seed)
    grid = grid_of(head.image).resized((128, 128))
    warp = WarpOptions(0.0, 0.0, displacement_mm=12.0, correlation_mm=24.0, lattice_mm=1.6)
    pair = known_pair(head.image, grid, seed=seed, warp=warp, appearance=AppearanceOptions(0.0, 0.0, 0.03))
    fixed, moving = (prepared(one, {"quantiles": [0.01, 0.99]}) for one in (pair.fixed, pair.moving))
    options = options_of_card(regularity_points=points)
    fields = refine_implicit(fixed, moving, options, silent, seed=seed).fields()
    mask = sitk.Resample(head.labels, pair.fixed, sitk.Transform(2, sitk.sitkIdentity), sitk.sitkNearestNeighbor)
    transform = transform_from_map(fields.moving_from_fixed, fixed.grid, fixed.grid)
    return folded_percent(fields), error_mm(transform, pair.known, mask).mean


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "memory", "writing", "regularity"))
    parser.add_argument("--cases", type=lambda text: text.split(","), default=["ch2", "mni", "lung"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", type=numbers, default=[128, 256, 512])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=["nephi", "field", "network"])
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--points", type=numbers, default=[10, 16, 64, 256, 1024])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        one_peak(arguments.one, arguments.sizes[0], arguments.steps)
        return
    {"accuracy": accuracy, "memory": memory, "writing": writing, "regularity": regularity}[arguments.what](arguments)


if __name__ == "__main__":
    main()
