"""Accuracy, folds, inverse consistency, time and memory on known warps, beside ANTs SyN and elastix in one run.

    python -m Testing.benchmarks.accuracy --cases ch2,mni,lung --seeds 0,1,2 --methods direct,ants,elastix --threads 2

Every registration runs in a process of its own with the same limit on threads. `seconds` is the registration alone, from two
images in memory to its transforms, without imports and files, for every method alike; `MB` is the peak of resident memory of
the process at that moment, its imports included. What is measured on the results is one code for all methods.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from RegistrationNetLib.geometry.space import displacements_mm, field_transform, grid_of
from RegistrationNetLib.quality.assessment import jacobian_image, jacobian_statistics
from RegistrationNetLib.quality.known_warp import error_mm
from Testing.benchmarks.known_warps import SEEDS, SOURCES, Case, case, data_folder
from Testing.benchmarks.memory import peak_memory_mb

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = ("ants", "elastix")
PACKAGES = ("torch", "SimpleITK", "antspyx", "itk-elastix", "itk-core")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


@dataclass(frozen=True)
class Estimate:
    """What a method gives: world transforms (no inverse: None) and what it took."""

    moving_from_fixed: sitk.Transform
    fixed_from_moving: sitk.Transform | None
    seconds: float
    peak_mb: float


@dataclass(frozen=True)
class Score:
    """The numbers of one registration; NaN where the method gives no inverse."""

    error_mean_mm: float
    error_p95_mm: float
    error_max_mm: float
    folded_percent: float
    inverse_mean_mm: float
    inverse_p95_mm: float
    seconds: float
    peak_mb: float


# ---- in the process of one registration ----


def register_direct(fixed: str, moving: str, options: dict[str, Any]) -> Estimate:
    return _registered("direct", fixed, moving, options)


def register_nephi(fixed: str, moving: str, options: dict[str, Any]) -> Estimate:
    return _registered("nephi", fixed, moving, options)


def _registered(model: str, fixed: str, moving: str, options: dict[str, Any]) -> Estimate:
    import torch

    from RegistrationNetLib import register

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    images = sitk.ReadImage(fixed), sitk.ReadImage(moving)
    start = time.perf_counter()
    result = register(*images, **{"model": model, **options})
    seconds = time.perf_counter() - start
    return Estimate(result.moving_from_fixed, result.fixed_from_moving, seconds, peak_memory_mb())


def register_ants(fixed: str, moving: str, options: dict[str, Any]) -> Estimate:
    import ants

    images = ants.image_read(fixed), ants.image_read(moving)
    start = time.perf_counter()
    result = ants.registration(*images, **{"type_of_transform": "SyN", "random_seed": 1, **options})
    seconds, peak_mb = time.perf_counter() - start, peak_memory_mb()
    # Both lists are written as ANTs writes matrices, the last acting first; the affine of the inverse is to be inverted.
    warp, affine = result["fwdtransforms"]
    affine_of_inverse, inverse_warp = result["invtransforms"]
    forward = sitk.CompositeTransform([sitk.ReadTransform(affine), _field_file(warp)])
    backward = sitk.CompositeTransform([_field_file(inverse_warp), sitk.ReadTransform(affine_of_inverse).GetInverse()])
    return Estimate(forward, backward, seconds, peak_mb)


def _field_file(path: str) -> sitk.DisplacementFieldTransform:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))


def register_elastix(fixed: str, moving: str, options: dict[str, Any]) -> Estimate:
    import itk

    images = itk.imread(fixed, itk.F), itk.imread(moving, itk.F)
    parameters = itk.ParameterObject.New()
    for stage in ("rigid", "affine", "bspline"):
        parameters.AddParameterMap(parameters.GetDefaultParameterMap(stage))
    start = time.perf_counter()
    _, transforms = itk.elastix_registration_method(*images, parameter_object=parameters, log_to_console=False, **options)
    seconds, peak_mb = time.perf_counter() - start, peak_memory_mb()
    # It insists on writing the field to a file too.
    field = np.asarray(itk.transformix_deformation_field(images[1], transforms, output_directory=str(Path(fixed).parent)))
    return Estimate(field_transform(field, grid_of(sitk.ReadImage(fixed))), None, seconds, peak_mb)


METHODS: dict[str, Callable[[str, str, dict[str, Any]], Estimate]] = {
    "direct": register_direct,
    "nephi": register_nephi,
    "ants": register_ants,
    "elastix": register_elastix,
}


def run_one(method: str, folder: Path, options: dict[str, Any]) -> None:
    """Register the pair in `folder`; leave its displacement, the way there and back, and what it took."""
    fixed, moving = str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")
    estimate = METHODS[method](fixed, moving, options)
    grid = grid_of(sitk.ReadImage(fixed))
    np.save(folder / "displacement.npy", displacements_mm(estimate.moving_from_fixed, grid))
    if estimate.fixed_from_moving is not None:
        # The last one added acts first.
        there_and_back = sitk.CompositeTransform([estimate.fixed_from_moving, estimate.moving_from_fixed])
        np.save(folder / "there_and_back.npy", displacements_mm(there_and_back, grid))
    (folder / "cost.json").write_text(json.dumps({"seconds": estimate.seconds, "peak_mb": estimate.peak_mb}))


# ---- in the process of the benchmark ----


def score(method: str, one: Case, *, threads: int, options: dict[str, Any]) -> Score:
    """The numbers of `method` on a case, registered in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sitk.WriteImage(one.fixed, str(folder / "fixed.nii.gz"))
        sitk.WriteImage(one.moving, str(folder / "moving.nii.gz"))
        limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
        command = [sys.executable, "-m", "Testing.benchmarks.accuracy", "--one", method, "--folder", name]
        command += ["--options", json.dumps(options)]
        subprocess.run(command, check=True, cwd=REPOSITORY, env={**os.environ, **limits}, stdout=sys.stderr)
        return _judge(one, folder)


def _judge(one: Case, folder: Path) -> Score:
    grid = grid_of(one.fixed)
    transform = field_transform(np.load(folder / "displacement.npy"), grid)
    error = error_mm(transform, one.known, one.foreground)
    folded_percent = jacobian_statistics(jacobian_image(transform, one.fixed)).folded_percent
    inverse = np.full(1, np.nan)
    if (folder / "there_and_back.npy").exists():
        inside = sitk.GetArrayViewFromImage(one.foreground) > 0
        inverse = np.linalg.norm(np.load(folder / "there_and_back.npy")[inside], axis=-1)
    cost = json.loads((folder / "cost.json").read_text())
    return Score(
        error.mean, error.p95, error.max, folded_percent, float(inverse.mean()), float(np.quantile(inverse, 0.95)), **cost
    )


def before(one: Case) -> Score:
    """The numbers of doing nothing."""
    identity = sitk.Transform(one.fixed.GetDimension(), sitk.sitkIdentity)
    error = error_mm(identity, one.known, one.foreground)
    return Score(error.mean, error.p95, error.max, 0.0, 0.0, 0.0, 0.0, 0.0)


Scores = dict[str, dict[str, dict[str, Score]]]  # case, method, seed


def measure(arguments: argparse.Namespace) -> Scores:
    """Every method on every case and seed; a case whose data is missing is skipped with a word, a failure is told and left out."""
    scores: Scores = {}
    for name in arguments.cases:
        for seed in arguments.seeds:
            try:
                one = case(name, seed, arguments.data)
            except FileNotFoundError as missing:
                print(f"{name} skipped: {missing}", file=sys.stderr)
                break
            by_method = scores.setdefault(name, {})
            by_method.setdefault("before", {})[str(seed)] = before(one)
            for method in arguments.methods:
                options = arguments.options if method == "direct" else {}
                try:
                    result = score(method, one, threads=arguments.threads, options=options)
                except subprocess.CalledProcessError as failure:
                    print(f"{name} {seed} {method} FAILED with status {failure.returncode}", file=sys.stderr)
                    continue
                by_method.setdefault(method, {})[str(seed)] = result
                print(f"{name} {seed} {method:8s} {_line(result)}", file=sys.stderr, flush=True)
    return scores


def _line(result: Score) -> str:
    return "  ".join(f"{key} {value:.3g}" for key, value in asdict(result).items())


def report(scores: Scores, arguments: argparse.Namespace) -> str:
    """Markdown: where and how it was measured, then a table per case with means over the seeds."""
    lines = ["# Accuracy on known warps", "", f"- command: `python -m Testing.benchmarks.accuracy {' '.join(sys.argv[1:])}`"]
    lines += [f"- machine: {_processor()}, {os.cpu_count()} cores, {arguments.threads} threads per registration"]
    lines += [f"- versions: Python {platform.python_version()}, {', '.join(map(_version, PACKAGES))}"]
    lines += ["- errors in mm over the foreground, folds over the whole fixed grid; seconds without imports and files;"]
    lines += ["  ratios below 1 are in favour of direct"]
    for name, by_method in scores.items():
        lines += ["", f"## {name} (mean of seeds {', '.join(by_method['before'])})", "", *_table(by_method)]
    return "\n".join(lines) + "\n"


def _table(by_method: dict[str, dict[str, Score]]) -> list[str]:
    columns = list(Score.__dataclass_fields__)
    titles = ["error mean", "error p95", "error max", "folded %", "inverse mean", "inverse p95", "seconds", "MB"]
    lines = ["| method | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    means = {
        method: [float(np.mean([getattr(one, column) for one in by_seed.values()])) for column in columns]
        for method, by_seed in by_method.items()
    }
    lines += [_row(method, values) for method, values in means.items()]
    peers = [means[peer] for peer in PEERS if peer in means]
    if "direct" in means and peers:
        better = np.nanmin([*peers, np.full(len(columns), np.inf)], axis=0)
        ratios = np.divide(means["direct"], better, out=np.full(len(columns), np.nan), where=(better > 0) & np.isfinite(better))
        lines += [_row("direct / better peer", ratios.tolist())]
    return lines


def _row(title: str, values: Sequence[float]) -> str:
    return f"| {title} | " + " | ".join("n/a" if np.isnan(value) else f"{value:.3g}" for value in values) + " |"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=lambda text: text.split(","), default=list(SOURCES))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=list(SEEDS))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=data_folder())
    parser.add_argument("--json", type=Path, help="write every number here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--options", type=json.loads, default={}, help='JSON, further arguments of direct: {"steps": 20}')
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for chosen, known in ((arguments.cases, SOURCES), (arguments.methods, METHODS)):
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            parser.error(f"unknown {', '.join(unknown)}; choose from {', '.join(known)}")
    return arguments


def main() -> None:
    arguments = parse()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(arguments.threads)
    if arguments.one:
        run_one(arguments.one, arguments.folder, arguments.options)
        return
    scores = measure(arguments)
    text = report(scores, arguments)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    if arguments.json:
        numbers = {n: {m: {s: asdict(one) for s, one in runs.items()} for m, runs in by.items()} for n, by in scores.items()}
        arguments.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
