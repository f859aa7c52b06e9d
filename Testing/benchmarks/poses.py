"""How often a registration is right, from any pose, for any part, and in any contrast; beside ANTs SyN and elastix.

    python -m Testing.benchmarks.poses --rows all --pairs 40 --results poses.json
    python -m Testing.benchmarks.poses --rows turned-90-180,half --methods direct,ants,elastix --results poses.json

Right is a mean error below 3 mm over the body where both images show it. Every result is kept in the JSON file at once, and
a run goes on where the last one ended. `--development` draws other pairs: those on which the method may be tuned.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from Testing.benchmarks.accuracy import METHODS
from Testing.benchmarks.contrasts import contrast_source
from Testing.benchmarks.known_warps import data_folder
from Testing.benchmarks.pose_pairs import (
    PosePair,
    Recipe,
    corner,
    exchanged,
    half,
    in_mm,
    in_unit,
    padded,
    pose_pair,
    real_source,
    slab,
    upper_half,
)

RIGHT_MM = 3.0
FIRST_JUDGING_SEED, FIRST_DEVELOPMENT_SEED = 0, 10_000
SOURCES = ("phantom", "ch2", "mni", "thorax")
HEADS = ("ch2", "mni")
IN_PLACE = Recipe(degrees=(0.0, 0.0), shift_mm=(0.0, 0.0), is_warped=False)

Maker = Callable[[int], PosePair]


def _of(recipe: Recipe, names: Sequence[str] = SOURCES) -> Maker:
    return lambda seed: pose_pair(real_source(names[seed % len(names)], seed, data_folder()), recipe, seed)


def _in_contrasts(kind: str, other: str) -> Maker:
    labels = data_folder().parent / "labels"
    return lambda seed: pose_pair(contrast_source(kind, other, seed, labels), Recipe(), seed)


def _scaled(seed: int) -> PosePair:
    """A factor from 1e-3 to 1e3 on all lengths."""
    return in_unit(_of(Recipe())(seed), 10.0 ** ((seed % 7) - 3))


def _padded(seed: int) -> PosePair:
    return padded(_of(Recipe(), ("thorax",))(seed), (-32768.0, -3024.0)[seed % 2])


ROWS: dict[str, Maker] = {
    **{
        f"turned-{low}-{high}": _of(Recipe(degrees=(low, high)))
        for low, high in ((0, 15), (15, 30), (30, 60), (60, 90), (90, 180))
    },
    "half": _of(Recipe(cut=half)),
    "corner": _of(Recipe(cut=corner), HEADS),
    "slab": _of(Recipe(cut=slab), HEADS),
    "upper-half": _of(Recipe(cut=upper_half), HEADS),
    "half-turned": _of(Recipe(degrees=(30, 180), cut=half)),
    "shifted": _of(Recipe(shift_mm=(30, 80))),
    "scaled": _of(Recipe(log_scale=math.log(1.25))),
    "identical": _of(replace(IN_PLACE, noise=0.0)),
    "identical-noise": _of(IN_PLACE),
    "units": _scaled,
    "padded": _padded,
    **{
        f"{kind}-{other}": _in_contrasts(kind, other)
        for kind, other in (
            ("t1", "t1"), ("t1", "t2"), ("t1", "flair"), ("t1", "agent"), ("t1", "ct"), ("t1", "inverted"),
            ("t2", "t2"), ("t2", "flair"), ("t2", "agent"), ("t2", "ct"), ("ct", "ct"), ("ct", "flair"),
            ("random", "random"),
        )
    },
    "random-other": lambda seed: pose_pair(
        contrast_source("random", "random-other", seed, data_folder().parent / "labels"), Recipe(), seed
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one method makes of one pair. Volumes are mean determinants less 1; NaN where a number was not asked for."""

    row: str
    seed: int
    method: str
    before_mm: float
    error_mm: float
    p95_mm: float
    volume_percent: float
    seconds: float
    exchange_alignment_mm: float = math.nan
    exchange_mm: float = math.nan
    failure: str = ""


def outcome(row: str, seed: int, method: str, options: dict[str, Any], *, exchange: bool) -> Outcome:
    """Register the pair; an error of the method counts as a failure with its message."""
    pair = ROWS[row](seed)
    still = sitk.Transform(3, sitk.sitkIdentity)
    before = _errors(still, pair)
    start = time.perf_counter()
    try:
        found = _registered(pair, method, options)
    except Exception as error:  # noqa: BLE001 -- a peer may fail in any way, and the next pair is registered all the same
        return Outcome(row, seed, method, float(before.mean()), math.inf, math.inf, math.nan, 0.0, failure=str(error))
    seconds = time.perf_counter() - start
    errors = _errors(found["forward"], pair)
    volume = 100 * (found["volume"](pair) - 1) if method == "direct" else math.nan
    result = Outcome(
        row, seed, method, float(before.mean()), float(errors.mean()), float(np.quantile(errors, 0.95)), volume, seconds
    )
    if not exchange:
        return result
    back = _registered(exchanged(pair), method, options)
    return replace(
        result,
        exchange_alignment_mm=_there_and_back(found["alignment"], back["alignment"], pair),
        exchange_mm=_there_and_back(found["forward"], back["forward"], pair),
    )


def _registered(pair: PosePair, method: str, options: dict[str, Any]) -> dict[str, Any]:
    if method == "direct":
        from RegistrationNetLib import register

        result = register(pair.fixed, pair.moving, **{**pair.options, **options})

        def volume(one: PosePair) -> float:
            inside = sitk.GetArrayViewFromImage(one.counted) > 0
            return float(sitk.GetArrayViewFromImage(result.jacobian)[inside].mean())

        return {"forward": result.moving_from_fixed, "alignment": result.alignment, "volume": volume}
    with tempfile.TemporaryDirectory() as name:
        paths = [f"{name}/{what}.nii.gz" for what in ("fixed", "moving")]
        for image, path in zip((pair.fixed, pair.moving), paths, strict=True):
            sitk.WriteImage(image, path)
        return {"forward": METHODS[method](paths[0], paths[1], {}).moving_from_fixed}


def _errors(transform: sitk.Transform, pair: PosePair) -> np.ndarray:
    inside = sitk.GetArrayViewFromImage(pair.counted) > 0
    true = in_mm(pair.truth, replace(pair, unit_mm=1.0), pair.counted)
    return np.linalg.norm(in_mm(transform, pair, pair.counted)[inside] - true[inside], axis=-1)


def _there_and_back(there: sitk.Transform, back: sitk.Transform, pair: PosePair) -> float:
    inside = sitk.GetArrayViewFromImage(pair.counted) > 0
    return float(np.linalg.norm(in_mm(sitk.CompositeTransform([back, there]), pair, pair.counted)[inside], axis=-1).mean())


# ---- the table ----


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z = 1.96
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    width = z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    return max(0.0, middle - width), min(1.0, middle + width)


def table(outcomes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown, one line for each row and method."""
    yield "| row | method | pairs | right | 95 % interval | error before | median error | worst | volume | exchange: alignment, whole | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in outcomes:
        groups.setdefault((one["row"], one["method"]), []).append(one)
    for (row, method), group in sorted(groups.items(), key=lambda entry: (list(ROWS).index(entry[0][0]), entry[0][1])):
        errors = [one["error_mm"] for one in group]
        right = sum(error < RIGHT_MM for error in errors)
        low, high = wilson(right, len(group))
        columns = [
            f"{100 * right / len(group):.0f} %", f"{100 * low:.0f}–{100 * high:.0f} %",
            f"{np.mean([one['before_mm'] for one in group]):.1f}", f"{np.median(errors):.2f}", f"{max(errors):.2f}",
            _worst(group, "volume_percent", "{:.2f} %"),
            f"{_worst(group, 'exchange_alignment_mm', '{:.3f}')}, {_worst(group, 'exchange_mm', '{:.3f}')}",
            f"{np.median([one['seconds'] for one in group]):.1f}",
        ]  # fmt: skip
        yield f"| {row} | {method} | {len(group)} | {' | '.join(columns)} |"


def _worst(group: Sequence[dict[str, Any]], name: str, form: str) -> str:
    values = [abs(one[name]) for one in group if math.isfinite(one[name])]
    return form.format(max(values)) if values else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="all", help=f"of {', '.join(ROWS)}; or all")
    parser.add_argument("--pairs", type=int, default=40, help="pairs of each row")
    parser.add_argument("--methods", default="direct", help="of direct, ants, elastix")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, options of register")
    parser.add_argument("--exchange", action="store_true", help="register the exchanged pair too")
    parser.add_argument("--development", action="store_true", help="the pairs for tuning in place of those that judge")
    parser.add_argument("--results", type=Path, required=True, help="JSON file of results, which a run resumes")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there, and do no more")
    arguments = parser.parse_args()
    outcomes: list[dict[str, Any]] = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
    first = FIRST_DEVELOPMENT_SEED if arguments.development else FIRST_JUDGING_SEED
    done = {(one["row"], one["seed"], one["method"]) for one in outcomes}
    rows = list(ROWS) if arguments.rows == "all" else arguments.rows.split(",")
    for row in () if arguments.table else rows:
        for seed in range(first, first + arguments.pairs):
            for method in arguments.methods.split(","):
                if (row, seed, method) in done:
                    continue
                one = outcome(row, seed, method, arguments.options, exchange=arguments.exchange and method == "direct")
                outcomes.append(asdict(one))
                arguments.results.write_text(json.dumps(outcomes))
                print(row, seed, method, f"{one.before_mm:.2f} -> {one.error_mm:.2f} mm", one.failure, flush=True)
    print("\n".join(table([one for one in outcomes if one["row"] in rows])))


if __name__ == "__main__":
    main()
