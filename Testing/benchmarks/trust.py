"""How far the verdict and the map of errors can be trusted, on pairs whose truth is known; and how both were calibrated.

    python -m Testing.benchmarks.trust collect calibration FOLDER --pairs 300     registers, and keeps the evidence of each pair
    python -m Testing.benchmarks.trust collect test FOLDER --pairs 300
    python -m Testing.benchmarks.trust calibrate FOLDER                           writes RegistrationNetLib/quality/trust.json
    python -m Testing.benchmarks.trust judge FOLDER [--figure docs/trust.svg]     the table, and the reliability diagram

`collect` goes on where it was stopped, and several may work on one folder, each with `--part 1/2`, `--part 2/2`. Calibration and test
have other images and seeds (`trust_pairs.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from RegistrationNetLib import Registration, register
from RegistrationNetLib.errors import RegistrationNetError
from RegistrationNetLib.geometry.space import Grid
from RegistrationNetLib.quality import error_map
from RegistrationNetLib.quality.error_map import (
    ALONE,
    MODEL_FILE,
    REPEATED,
    ErrorModel,
    error_model,
    expected_error,
    features,
)
from RegistrationNetLib.quality.evidence import Evidence
from RegistrationNetLib.quality.likeness import Pose
from RegistrationNetLib.quality.verdict import RIGHT_MM, WRONG_MM, WRONG_SHARE, Verdict, trust_marks, verdict_by_evidence
from Testing.benchmarks.trust_pairs import CYCLE, SPLITS, pair_number, true_error_mm

Array = NDArray[np.floating]

# The pairs have these in turn: one after another for each kind.
SPACINGS_MM = (6.0, 4.5, 3.5, 6.0, 2.5)
TRUST_FILE = Path(error_map.__file__).with_name(MODEL_FILE)
NONLINEAR = ("warped", "cropped", "pose", "contrast")
# Voxels of each pair that the laws are fitted to, and how strongly large coefficients are avoided.
VOXELS, RIDGE = 1500, 3e-3
MAPS = ("body", "agreement", "ambiguity", "rim", "bending_vox", "beyond_vox", "spread_vox")
NUMBERS = (
    "likeness", "pose_score", "overlap", "volume_factor", "body_mm", "repeats_asked", "repeats_fineness",
)  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A registered pair: what it is, what the evidence says, and the true error on the evidence's lattice (empty: no map is right)."""

    name: str
    kind: str
    source: str
    evidence: Evidence
    error_mm: Array
    voxel_mm: float
    folded_percent: float
    seconds: Mapping[str, float]

    @property
    def off_mm(self) -> float:
        """Mean error over the body; infinite where no map is right."""
        return float(self.error_mm[self.evidence.body].mean()) if self.error_mm.size else np.inf

    @property
    def is_wrong(self) -> bool:
        return self.off_mm > min(WRONG_MM, WRONG_SHARE * self.evidence.body_mm)

    @property
    def is_right(self) -> bool:
        return self.off_mm <= max(RIGHT_MM, self.voxel_mm) and not self.is_wrong


# ---- collecting ----


def collect(split: str, folder: Path, *, pairs: int, part: tuple[int, int]) -> None:
    """Register the pairs of `split` and keep their evidence in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for number in range(part[0] - 1, pairs, part[1]):
        file = folder / f"{split}_{number:04d}.npz"
        if file.exists():
            continue
        kind, source, pair = pair_number(split, number, spacing_of(number))
        try:
            result = register(pair.fixed, pair.moving)
        except RegistrationNetError as error:
            np.savez(file, kind=kind, source=source, refused=str(error))
            continue
        true = np.zeros(0) if pair.truth is None else true_error_mm(result.moving_from_fixed, pair.truth, result.evidence.grid)
        _keep(file, kind, source, result, true)
        print(
            file.stem,
            kind,
            source,
            f"{true[result.evidence.body].mean() if true.size else np.nan:.1f} mm",
            result.verdict,
            flush=True,
        )


def spacing_of(number: int) -> float:
    """Of the pair of that number, in mm."""
    return SPACINGS_MM[(number + number // len(CYCLE)) % len(SPACINGS_MM)]


def _keep(file: Path, kind: str, source: str, result: Registration, true: Array) -> None:
    evidence = result.evidence
    maps = {name: np.asarray(getattr(evidence, name), dtype=bool if name == "body" else np.float32) for name in MAPS}
    np.savez_compressed(
        file, kind=kind, source=source, error=true.astype(np.float32), world_from_voxel=evidence.grid.world_from_voxel,
        shape=evidence.grid.shape, repeats_off_mm=evidence.repeats_off_mm, other_score=evidence.other_pose.score,
        mirrored=evidence.other_pose.mirrored, shift=evidence.other_pose.shift_vox, voxel_mm=max(result.quality.voxel_mm),
        folded=result.quality.jacobian.folded_percent, seconds=json.dumps(result.facts["seconds"]),
        repeat_failure=evidence.repeat_failure, **maps, **{name: getattr(evidence, name) for name in NUMBERS},
    )  # fmt: skip


def collected(folder: Path, split: str) -> Iterator[Judged]:
    """The pairs that were collected, without those that were refused."""
    for file in sorted(folder.glob(f"{split}_*.npz")):
        kept = np.load(file)
        if "refused" in kept:
            continue
        evidence = Evidence(
            grid=Grid(tuple(kept["shape"].tolist()), kept["world_from_voxel"]),
            other_pose=Pose(tuple(kept["mirrored"].tolist()), tuple(kept["shift"].tolist()), float(kept["other_score"])),
            repeat_failure=str(kept["repeat_failure"]), repeats_off_mm=tuple(kept["repeats_off_mm"].tolist()),
            **{name: kept[name] for name in MAPS}, **{name: kept[name].item() for name in NUMBERS},
        )  # fmt: skip
        yield Judged(
            file.stem, str(kept["kind"]), str(kept["source"]), evidence, kept["error"], float(kept["voxel_mm"]),
            float(kept["folded"]), json.loads(str(kept["seconds"])),
        )  # fmt: skip


# ---- calibrating ----


def calibrated(cases: Sequence[Judged]) -> dict[str, Any]:
    """What `trust.json` holds, from the pairs of the calibration."""
    known = [case for case in cases if case.error_mm.size]
    right, wrong = [case for case in cases if case.is_right], [case for case in cases if case.is_wrong]
    laws = {"with repeats": _law(known, (*REPEATED, *ALONE)), "without repeats": _law(known, ALONE)}
    return {
        "about": {
            "made_by": "python -m Testing.benchmarks.trust calibrate",
            "pairs": len(cases), "right": len(right), "wrong": len(wrong),
            "images": sorted({case.source for case in cases}), "spacings_mm": list(SPACINGS_MM),
        },
        "error": laws,
        "limits": _chosen_limits(right, wrong, laws),
    }  # fmt: skip


def _law(cases: Sequence[Judged], names: Sequence[str]) -> dict[str, Any]:
    """Coefficients of the law by least squares of the logarithm, none below 0, every pair counting alike; and the bound."""
    rows, goals = zip(*(_sampled(case, names) for case in cases), strict=True)
    matrix, goal = np.concatenate(rows), np.concatenate(goals)
    coefficients = _positive_least_squares(matrix, goal)
    model = ErrorModel({"constant": float(coefficients[-1]), **dict(zip(names, coefficients.tolist(), strict=False))}, 1.0)
    offset = float(np.mean([_log_ratio(case, model) for case in cases if not case.is_wrong]))
    model = ErrorModel({**model.coefficients, "constant": model.coefficients["constant"] + offset}, 1.0)
    return {
        "coefficients": {name: round(value, 5) for name, value in model.coefficients.items() if value or name == "constant"},
        "bound_factor": round(_bound_factor([case for case in cases if not case.is_wrong], model), 4),
    }


def _sampled(case: Judged, names: Sequence[str]) -> tuple[Array, Array]:
    """Features and the logarithm of the error in voxels at some voxels of the body: [voxels, features + 1] and [voxels]."""
    body, found = case.evidence.body, features(case.evidence)
    chosen = np.random.default_rng(0).choice(int(body.sum()), VOXELS)
    columns = [np.broadcast_to(found[name], body.shape)[body][chosen] for name in names]
    error_vox = case.error_mm[body][chosen] / case.evidence.voxel_mm
    return np.stack([*columns, np.ones(VOXELS)], axis=1), np.log(error_vox + error_map.SMALLEST_VOX)


def _positive_least_squares(matrix: Array, goal: Array) -> Array:
    """Ridge regression in standardized features; those whose coefficient falls below 0 are left out, the worst first."""
    kept = list(range(matrix.shape[1] - 1))
    middle, scale = matrix.mean(0), matrix.std(0) + 1e-9
    standard = (matrix - middle) / scale
    while True:
        part = standard[:, kept]
        square = part.T @ part / len(part) + RIDGE * np.eye(len(kept))
        solved = np.linalg.solve(square, part.T @ (goal - goal.mean()) / len(part))
        if solved.min() >= 0:
            break
        kept.pop(int(solved.argmin()))
    coefficients = np.zeros(matrix.shape[1])
    coefficients[kept] = solved / scale[kept]
    coefficients[-1] = goal.mean() - float(coefficients[:-1] @ middle[:-1])
    return coefficients


def _log_ratio(case: Judged, model: ErrorModel) -> float:
    body = case.evidence.body
    return float(np.log((case.error_mm[body].mean() + 0.1) / (model.expected_mm(case.evidence)[body].mean() + 0.1)))


def _bound_factor(cases: Sequence[Judged], model: ErrorModel) -> float:
    """95 % of the voxels of these pairs, each pair counting alike, are off by less than this times the expected error.

    Where the whole pose is wrong nothing local bounds the error; that is for the verdict to say.
    """
    ratios = []
    for case in cases:
        body = case.evidence.body
        chosen = np.random.default_rng(1).choice(int(body.sum()), VOXELS)
        ratios.append((case.error_mm / model.expected_mm(case.evidence))[body][chosen])
    return float(np.quantile(np.concatenate(ratios), 0.95))


# How tight the limits may be, the tightest first, and the share of right pairs that should fit.
QUANTILES, RIGHT_THAT_FIT = (0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0), 0.95
# Each measure as a number that is larger when worse, and the slack at least between the worst right pair and the limits: bodies may
# breathe and be cut, more than the pairs here do.
MEASURES = {
    "volume": (lambda evidence: abs(np.log(max(evidence.volume_factor, 1e-9))), 0.45),
    "overlap": (lambda evidence: 1 - evidence.overlap, 0.35),
    "pose": (lambda evidence: evidence.pose_doubt, 0.03),
    "repeats": (lambda evidence: max(evidence.repeats_off_mm, default=np.inf) / evidence.body_mm, 0.01),
    "likeness": (lambda evidence: 1 - evidence.likeness, 0.05),
}


def _chosen_limits(right: Sequence[Judged], wrong: Sequence[Judged], laws: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The tightest limits by which so many right pairs fit as should, each judged by limits found without its image."""
    images = sorted({case.source for case in right})
    for quantile in QUANTILES:
        fits = 0
        for image in images:
            known, wrongly = ([case for case in cases if case.source != image] for cases in (right, wrong))
            facts = {"error": laws, "limits": _limits(known, wrongly, laws["with repeats"], quantile)}
            fits += sum(verdict_of(case, facts).colour == "green" for case in right if case.source == image)
        print(f"quantile {quantile:g}: {fits} of {len(right)} right pairs fit by limits that did not see their image")
        if fits >= RIGHT_THAT_FIT * len(right):
            break
    return _limits(right, wrong, laws["with repeats"], quantile)


def _limits(
    right: Sequence[Judged], wrong: Sequence[Judged], law: Mapping[str, Any], quantile: float
) -> dict[str, dict[str, float]]:
    """Amber begins beyond the `quantile` of the right pairs, red beyond the one half as far from all of them.

    Each by a slack, or part of the way to the wrong ones.
    """
    limits = {}
    for name, (measure, slack) in MEASURES.items():
        good, bad = (np.array([measure(case.evidence) for case in cases]) for cases in (right, wrong))
        usual, worst = np.quantile(good, (quantile, 0.5 + 0.5 * quantile))
        apart = max(float(np.median(bad)) - worst, 0.0)
        limits[name] = {"amber": float(usual + max(slack, 0.15 * apart)), "red": float(worst + max(2 * slack, 0.4 * apart))}
    expected = ErrorModel(law["coefficients"], law["bound_factor"])
    off = [np.median(expected.expected_mm(case.evidence)[case.evidence.body]) / max(RIGHT_MM, case.voxel_mm) for case in right]
    limits["expected"] = {"amber": max(1.0, float(1.1 * np.quantile(off, quantile))), "red": 1.0}
    return {name: _as_told(name, both) for name, both in limits.items()}


def _as_told(name: str, limits: Mapping[str, float]) -> dict[str, float]:
    """As the verdict counts them: factors of volume, shares of overlap and likeness."""
    back = {"volume": np.exp, "overlap": lambda value: 1 - value, "likeness": lambda value: 1 - value}.get(name, float)
    return {colour: round(float(back(value)), 4) for colour, value in limits.items()}


# ---- judging ----


def verdict_of(case: Judged, facts: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict by the evidence, as `register` gives it without landmarks, labels and folds; by other `facts` if they are given."""
    expected = expected_error(case.evidence, case.voxel_mm, facts)
    marks = trust_marks(case.evidence, expected, case.voxel_mm, facts)
    return verdict_by_evidence(case.evidence, expected, marks)


def table(cases: Sequence[Judged]) -> str:
    """What the verdicts and the map of errors are worth, as a table of Markdown."""
    said = {case.name: verdict_of(case) for case in cases}
    lines = ["| kind | pairs | wrong | … fits | … look closely | … does not fit | right | … fits |", "|---|" + "---:|" * 7]
    for kind in (*sorted({case.kind for case in cases}), "all"):
        of_kind = [case for case in cases if kind in (case.kind, "all")]
        wrong, right = [case for case in of_kind if case.is_wrong], [case for case in of_kind if case.is_right]
        counts = [sum(said[case.name].colour == colour for case in wrong) for colour in ("green", "amber", "red")]
        fits = sum(said[case.name].colour == "green" for case in right)
        lines.append(f"| {kind} | {len(of_kind)} | {len(wrong)} | {' | '.join(map(str, counts))} | {len(right)} | {fits} |")
    return "\n".join([*lines, "", *_map_lines(cases)])


def _map_lines(cases: Sequence[Judged]) -> Iterator[str]:
    known = [case for case in cases if case.error_mm.size]
    bent = [case for case in known if case.kind in NONLINEAR and not case.is_wrong]
    within = [_rank(_expected(case), case.error_mm[case.evidence.body]) for case in bent]
    yield f"Rank correlation of expected and true error within a pair, median over {len(bent)} nonlinear warps: {np.median(within):.2f}"
    means = np.array([(float(_expected(case).mean()), case.off_mm) for case in known])
    yield f"… of their means across {len(known)} pairs: {_rank(means[:, 0], means[:, 1]):.2f}"
    sound = [case for case in known if not case.is_wrong]
    for name, some in (("all", known), ("those that are not wrong", sound)):
        share = np.mean([float((case.error_mm[case.evidence.body] <= _bound(case)).mean()) for case in some])
        yield f"Voxels below the 95 % bound, over {name} ({len(some)} pairs): {100 * share:.1f} %"
    seconds = np.array([[case.seconds["repeats"], case.seconds["total"]] for case in cases])
    extra = np.median(seconds[:, 0] / (seconds[:, 1] - seconds[:, 0]))
    yield f"Time of the repeats, as a share of the rest of the registration (median): {100 * extra:.0f} %"


def _expected(case: Judged) -> Array:
    values: Array = error_model(case.evidence).expected_mm(case.evidence)[case.evidence.body]
    return values


def _bound(case: Judged) -> Array:
    return error_model(case.evidence).bound_factor * _expected(case)


def _rank(one: Array, other: Array) -> float:
    """Spearman's correlation."""
    places = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*places)[0, 1])


def reliability(cases: Sequence[Judged], path: Path) -> None:
    """The reliability diagram as SVG: the true error where so much was expected, in the median and the middle 90 %."""
    pairs = [(_expected(case), case.error_mm[case.evidence.body]) for case in cases if case.error_mm.size]
    expected, true = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    edges = np.geomspace(0.2, 200, 16)
    points = []
    for low, high in itertools.pairwise(edges.tolist()):
        inside = true[(expected >= low) & (expected < high)]
        if inside.size >= 200:
            points.append((float(np.sqrt(low * high)), *np.quantile(inside, (0.05, 0.5, 0.95)).tolist()))
    path.write_text(_diagram(points, error_model(cases[0].evidence).bound_factor), encoding="utf-8")


def _diagram(points: Sequence[tuple[float, ...]], bound_factor: float) -> str:
    def x(mm: float) -> float:
        return 60 + 400 * np.log(np.clip(mm, 0.1, 300) / 0.1) / np.log(3000)

    def y(mm: float) -> float:
        return 440 - 400 * np.log(np.clip(mm, 0.1, 300) / 0.1) / np.log(3000)

    ticks = "".join(
        f'<text x="{x(mm):.0f}" y="458" text-anchor="middle">{mm:g}</text><text x="54" y="{y(mm) + 4:.0f}" text-anchor="end">{mm:g}</text>'
        for mm in (0.1, 1, 10, 100)
    )
    lines = "".join(
        f'<path d="M{x(0.1):.0f},{y(0.1 * factor):.0f} L{x(300 / factor):.0f},{y(300):.0f}" stroke="{colour}" stroke-dasharray="{dash}"/>'
        for factor, colour, dash in ((1.0, "#888", "none"), (bound_factor, "#c3202b", "5 4"))
    )
    bars = "".join(
        f'<path d="M{x(at):.1f},{y(low):.1f} V{y(high):.1f}" stroke="#1f6feb"/><circle cx="{x(at):.1f}" cy="{y(middle):.1f}" r="4" fill="#1f6feb"/>'
        for at, low, middle, high in points
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 500" font-family="sans-serif" font-size="13" fill="#333">'
        f'<rect width="480" height="500" fill="#fff"/><rect x="60" y="40" width="400" height="400" fill="none" stroke="#ccc"/>'
        f'<g fill="none" stroke-width="1.5">{lines}{bars}</g>{ticks}'
        '<text x="260" y="484" text-anchor="middle">expected error (mm)</text>'
        '<text x="16" y="240" text-anchor="middle" transform="rotate(-90 16 240)">true error (mm): median, 5 to 95 %</text>'
        '<text x="60" y="26">Grey: equal. Red: the 95 % bound.</text></svg>\n'
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("collect")
    one.add_argument("split", choices=sorted(SPLITS))
    one.add_argument("folder", type=Path)
    one.add_argument("--pairs", type=int, default=300)
    one.add_argument("--part", default="1/1")
    commands.add_parser("calibrate").add_argument("folder", type=Path)
    one = commands.add_parser("judge")
    one.add_argument("folder", type=Path)
    one.add_argument("--figure", type=Path)
    options = parser.parse_args()
    if options.command == "collect":
        first, count = map(int, options.part.split("/"))
        collect(options.split, options.folder, pairs=options.pairs, part=(first, count))
    elif options.command == "calibrate":
        content = calibrated(list(collected(options.folder, "calibration")))
        TRUST_FILE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    else:
        cases = list(collected(options.folder, "test"))
        print(table(cases))
        if options.figure:
            reliability(cases, options.figure)


if __name__ == "__main__":
    main()
