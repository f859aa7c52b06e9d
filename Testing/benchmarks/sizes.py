"""What registrations of large images take: peak of the process above the two images as read, seconds, and error against the known map.

    python -m Testing.benchmarks.sizes --rows direct-300,head --threads 2

Every row runs in a process of its own, from two files to the files of the result. `MB` is the peak of resident memory of that
process, its imports included, less the two images as they were read; `register` and `save` are seconds. The pairs are made once
and kept in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import displacements_mm, grid_of, image_on
from RegistrationNetLib.quality.known_pair import KnownPair, known_pair
from Testing.benchmarks.generated_ct import ct_grid, ct_pair, label_pair
from Testing.benchmarks.known_warps import data_folder
from Testing.benchmarks.memory import peak_memory_mb

REPOSITORY = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
MEGABYTE = 2**20
# The error is measured on about so many points of the body.
POINTS = 400_000


@dataclass(frozen=True)
class Row:
    """A pair and the options with which it is registered; `fails` where no memory would do before."""

    pair: str
    options: Mapping[str, Any] = field(default_factory=dict)
    labels: bool = False
    random_weights: bool = False


CT = {"fixed_modality": "ct", "moving_modality": "ct"}
NETWORK = {"model": "unigradicon", "refine": "none", **CT}
ROWS: Mapping[str, Row] = {
    "head": Row("head"),
    "heads": Row("heads"),
    "thorax": Row("thorax", CT),
    "direct-300": Row("ct300", CT),
    "direct-600": Row("ct600", CT),
    "network-300": Row("ct300", NETWORK, random_weights=True),
    "field-300": Row("ct300", {**NETWORK, "refine": "field"}, random_weights=True),
    "constricon-300": Row("ct300", {**NETWORK, "model": "constricon"}, random_weights=True),
    "nephi-300": Row("ct300", {"model": "nephi", **CT}),
    "plain-96": Row("ct96", CT),
    "plain-128": Row("ct128", CT),
    "plain-256": Row("ct256", CT),
    "labels-256": Row("ct256", CT, labels=True),
}


def _ct(shape: Sequence[int], extent_mm: Sequence[float]) -> KnownPair:
    return ct_pair(ct_grid(shape, extent_mm), seed=1)


def _head(name: str) -> KnownPair:
    source = sitk.ReadImage(str(data_folder() / f"{name}.nii.gz"), sitk.sitkFloat32)
    return known_pair(source, grid_of(source), seed=0)


PAIRS: Mapping[str, Callable[[], KnownPair]] = {
    "head": lambda: _head("ch2"),
    "mni": lambda: _head("mni"),
    "thorax": lambda: _ct((240, 300, 300), (240.0, 300.0, 300.0)),
    "ct96": lambda: _ct((96, 96, 96), (360.0, 360.0, 360.0)),
    "ct128": lambda: _ct((128, 128, 128), (360.0, 360.0, 360.0)),
    "ct256": lambda: _ct((256, 256, 256), (360.0, 360.0, 360.0)),
    "ct300": lambda: _ct((300, 512, 512), (300.0, 360.0, 360.0)),
    "ct600": lambda: _ct((600, 512, 512), (480.0, 360.0, 360.0)),
}


def made(name: str, folder: Path) -> Path:
    """The folder of a pair's files, which are made where they are missing."""
    path = folder / name
    if (path / "done").exists():
        return path
    path.mkdir(parents=True, exist_ok=True)
    pair = PAIRS[name]()
    for what, image in (("fixed", pair.fixed), ("moving", pair.moving)):
        sitk.WriteImage(image, str(path / f"{what}.nrrd"))
    sitk.WriteTransform(pair.known.moving_from_fixed, str(path / "known.h5"))
    if name == "ct256":
        for what, image in zip(("fixed", "moving"), label_pair(grid_of(pair.fixed), pair, 100, seed=2), strict=True):
            sitk.WriteImage(image, str(path / f"{what}_labels.nrrd"), useCompression=True)
    (path / "done").touch()
    return path


def run_row(row: Row, pair: Path, weights: str | None) -> dict[str, Any]:
    """Register the files of `pair` in this process, and say what it took."""
    from RegistrationNetLib import register

    options = dict(row.options) | ({} if weights is None else {"weights": weights})
    names = ("fixed", "moving") if row.pair != "heads" else ("ch2.nii.gz", "mni.nii.gz")
    files = [pair / f"{name}.nrrd" if row.pair != "heads" else data_folder() / name for name in names]
    if row.labels:
        options |= {f"{name}_labels": pair / f"{name}_labels.nrrd" for name in names}
    started = time.perf_counter()
    result = register(*files, **options)
    seconds, busy, peak_mb = time.perf_counter() - started, time.process_time(), peak_memory_mb()
    images_mb = sum(_bytes(one) for one in (result.fixed, result.moving)) / MEGABYTE
    with tempfile.TemporaryDirectory(dir=pair) as out:
        started = time.perf_counter()
        result.save(out)
        saving = time.perf_counter() - started
        sizes = {one.name: one.stat().st_size / MEGABYTE for one in Path(out).iterdir()}
    found = {
        "mb": peak_mb - images_mb, "mb_saved": peak_memory_mb() - images_mb, "register": seconds, "busy": busy, "save": saving,
        "estimated_mb": result.facts.get("estimated_memory_mb"), "resolution_mm": result.facts.get("resolution_mm"),
        "transforms_mb": sizes["transform.h5"] + sizes["inverse.h5"], "files_mb": sum(sizes.values()),
        "folded": result.quality.jacobian.folded_percent, "inverse_mm": result.quality.inverse_consistency_mm.mean,
        "seconds": result.facts["seconds"], "verdict": result.verdict.words,
    }  # fmt: skip
    if row.pair != "heads":
        found |= _errors(result.moving_from_fixed, result.fixed, pair)
    return found


def _bytes(image: sitk.Image) -> int:
    return int(image.GetNumberOfPixels() * image.GetSizeOfPixelComponent())


def _errors(transform: sitk.Transform, fixed: sitk.Image, pair: Path) -> dict[str, float]:
    """Mean distance from the true place, over the body that moving shows, after the registration and before, in mm."""
    known = sitk.ReadTransform(str(pair / "known.h5"))
    stride = max(1, round((fixed.GetNumberOfPixels() / POINTS) ** (1 / 3)))
    coarse = sitk.Shrink(fixed, [stride] * 3)
    grid = grid_of(coarse)
    true, estimated = (displacements_mm(one, grid) for one in (known, transform))
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(coarse, sitk.sitkFloat32), 2 * coarse.GetSpacing()[0])
    body = sitk.GetArrayFromImage(sitk.OtsuThreshold(smooth, 0, 1)) > 0
    everywhere = image_on(grid_of(fixed), np.ones(grid_of(fixed).shape, np.uint8))
    seen = sitk.GetArrayFromImage(sitk.Resample(everywhere, coarse, known, sitk.sitkNearestNeighbor, 0)) > 0
    counted = body & seen
    distance = np.linalg.norm(estimated - true, axis=-1)[counted]
    return {
        "error_mean": float(distance.mean()), "error_p95": float(np.percentile(distance, 95)),
        "before": float(np.linalg.norm(true, axis=-1)[counted].mean()),
    }  # fmt: skip


def random_weights(model: str, folder: Path) -> str:
    """A file of random weights for the network of a card, made where it is missing."""
    import torch

    from RegistrationNetLib.models.catalogue import card_named
    from RegistrationNetLib.registration.methods import untrained_network

    path = folder / f"{model}.pt"
    if not path.exists():
        torch.manual_seed(0)
        torch.save(untrained_network(card_named(model)).state_dict(), path)
    return str(path)


def in_process(arguments: Sequence[str], threads: int, most_gb: float) -> dict[str, Any]:
    """What a process of this program prints as JSON, which may take so much memory; {"failed": why} where it ends badly."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    limited = f"ulimit -v {int(most_gb * 2**20)}; exec {sys.executable} -m Testing.benchmarks.sizes {' '.join(arguments)}"
    ended = subprocess.run(["bash", "-c", limited], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines:
        return {"failed": (ended.stderr.strip().splitlines() or [f"status {ended.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-gb", type=float, default=12.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "registrationnet-sizes")
    parser.add_argument("--options", default="{}", help="more options of register, as JSON")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--weights", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.make:
        made(given.make, given.folder)
        print("{}")
    elif given.run:
        row = ROWS[given.run]
        row = Row(row.pair, {**row.options, **json.loads(given.options)}, row.labels, row.random_weights)
        print(json.dumps(run_row(row, given.folder / row.pair, given.weights)))
    else:
        for name in given.rows.split(","):
            print(name, json.dumps(_row(name, given)), flush=True)


def _row(name: str, given: argparse.Namespace) -> dict[str, Any]:
    row, folder = ROWS[name], ["--folder", str(given.folder)]
    (given.folder / row.pair).mkdir(parents=True, exist_ok=True)
    if row.pair in PAIRS and not (given.folder / row.pair / "done").exists():
        in_process(["--make", row.pair, *folder], given.threads, 20.0)
    weights = ["--weights", random_weights(row.options["model"], given.folder)] if row.random_weights else []
    return in_process(["--run", name, *folder, *weights, "--options", f"'{given.options}'"], given.threads, given.most_gb)


if __name__ == "__main__":
    main()
