"""Corrections by hand, beside `direct` alone, on pairs with a known map on which it fails in one place; and tissue that keeps its shape.

    python -m Testing.benchmarks.correct [--kinds organ,blank] [--seeds 0,1,2] [--parts points,whole,misplaced,shape,time]

What is measured: the error where it failed (within 15 mm of the place that was pushed), and elsewhere (beyond 60 mm from all points), with
three pairs of points within 15 mm of the place; the cost of one pair that is 20 mm wrong among twenty right ones; how far the inside of a
rigid mask is from rigid, and how much volume changes inside a mask that keeps it; and the time of a second look on a head at 1 mm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from RegistrationNetLib import Registration, register
from RegistrationNetLib.geometry.space import displacements_mm, grid_of

from .pushed_pairs import KINDS, PushedPair, pushed_pair

NEAR_MM, FAR_MM, WRONG_MM = 15.0, 60.0, 20.0


def errors(pair: PushedPair, result: Registration, points: np.ndarray) -> dict[str, float]:
    """Mean errors over the head where it failed and elsewhere, in mm; and the share of folded voxels in %."""
    off, away = pair.errors_mm(result.moving_from_fixed)
    far = _away(pair, points) > FAR_MM
    return {
        "there": float(off[away < NEAR_MM].mean()),
        "elsewhere": float(off[far].mean()) if far.any() else float("nan"),
        "all": float(off.mean()),
        "folded %": result.quality.jacobian.folded_percent,
    }


def _away(pair: PushedPair, points: np.ndarray) -> np.ndarray:
    """Of each voxel of the head, the distance to the nearest point."""
    grid = grid_of(pair.mask)
    places = (
        np.argwhere(sitk.GetArrayViewFromImage(pair.mask) > 0) @ grid.world_from_voxel[:-1, :-1].T
        + grid.world_from_voxel[:-1, -1]
    )
    return np.array(np.linalg.norm(places[:, None] - points, axis=-1).min(axis=1))


def points(kinds: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Three pairs where it failed, as a second look at the result of `direct` alone."""
    for kind in kinds:
        for seed in seeds:
            pair = pushed_pair(kind, seed)
            alone = register(pair.fixed, pair.moving, repeats=0)
            chosen = pair.around(3, seed)
            second = register(pair.fixed, pair.moving, previous=alone, **_pulling(pair, chosen))
            for name, result in (("direct alone", alone), ("second look", second)):
                yield {"pair": f"{kind} {seed}", "run": name, **errors(pair, result, chosen)}


def whole(kinds: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """The same pairs from the first step on."""
    for kind in kinds:
        for seed in seeds:
            pair = pushed_pair(kind, seed)
            chosen = pair.around(3, seed)
            result = register(pair.fixed, pair.moving, **_pulling(pair, chosen))
            yield {"pair": f"{kind} {seed}", "run": "with three pairs", **errors(pair, result, chosen)}


def _pulling(pair: PushedPair, chosen: np.ndarray) -> dict[str, Any]:
    return {"fixed_landmarks": chosen, "moving_landmarks": pair.partners(chosen), "landmarks": "pull", "repeats": 0}


def misplaced(kinds: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Twenty right pairs, and one more that is wrong."""
    for kind in kinds:
        for seed in seeds:
            pair, random = pushed_pair(kind, seed), np.random.default_rng(seed)
            places = pair.elsewhere(21, seed)
            partners = pair.partners(places)
            direction = random.standard_normal(3)
            partners[20] += WRONG_MM * direction / np.linalg.norm(direction)
            found = {}
            for name, count in (("twenty right pairs", 20), ("and one wrong one", 21)):
                result = register(
                    pair.fixed,
                    pair.moving,
                    fixed_landmarks=places[:count],
                    moving_landmarks=partners[:count],
                    landmarks="pull",
                    repeats=0,
                )
                found[name] = errors(pair, result, places[:count])["all"]
            yield {
                "pair": f"{kind} {seed}",
                **found,
                "cost": found["and one wrong one"] - found["twenty right pairs"],
                "wrong one followed": result.report()["landmarks"]["points"][20]["followed"],
                "right ones followed": sum(one["followed"] for one in result.report()["landmarks"]["points"][:20]),
            }


def shape(kinds: list[str], seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A ball of 12 mm where tissue was pushed, and one on the other side, that keep their shape or their volume."""
    for kind in kinds:
        for seed in seeds:
            pair = pushed_pair(kind, seed)
            grid = grid_of(pair.fixed)
            index = (
                np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
            )
            other = 2 * grid.centre_mm - pair.centre_mm
            values = np.zeros(grid.shape, dtype=np.uint8)
            for number, centre in enumerate((pair.centre_mm, other), start=1):
                values[np.linalg.norm(index - centre, axis=-1) < 12.0] = number
            mask = sitk.GetImageFromArray(values)
            mask.CopyInformation(pair.fixed)
            for name in ("rigid", "keep_volume"):
                result = register(pair.fixed, pair.moving, repeats=0, **{name: mask})
                told = result.facts["kept_shape"]
                yield {
                    "pair": f"{kind} {seed}",
                    "mask": name,
                    "from rigid mm": max(one["from_rigid_mm"] for one in told),
                    "volume change %": max(one["volume_change_percent"] for one in told),
                    "all": errors(pair, result, pair.centre_mm[None])["all"],
                    "folded %": result.quality.jacobian.folded_percent,
                }


def second_look(seeds: list[int]) -> Iterator[dict[str, Any]]:
    """A head at 1 mm: seconds, on the clock and of all cores together, and how far anything moved beyond 60 mm from all points."""
    for seed in seeds:
        pair = pushed_pair("blank", seed, shape=(180, 216, 180), spacing_mm=1.0)
        alone = register(pair.fixed, pair.moving, repeats=0)
        chosen = pair.around(3, seed)
        clocks = (time.perf_counter, time.process_time, time.thread_time)
        start = [clock() for clock in clocks]
        result = register(
            pair.fixed,
            pair.moving,
            previous=alone,
            fixed_landmarks=chosen,
            moving_landmarks=pair.partners(chosen),
            landmarks="pull",
        )
        seconds, work, main_work = (clock() - begun for clock, begun in zip(clocks, start, strict=True))
        grid = grid_of(pair.fixed).resized([60, 72, 60])
        moved = np.linalg.norm(
            displacements_mm(result.moving_from_fixed, grid) - displacements_mm(alone.moving_from_fixed, grid), axis=-1
        )
        places = np.moveaxis(np.indices(grid.shape), 0, -1) @ grid.world_from_voxel[:-1, :-1].T + grid.world_from_voxel[:-1, -1]
        far = np.linalg.norm(places[..., None, :] - chosen, axis=-1).min(axis=-1) > FAR_MM
        yield {
            "seed": seed,
            "seconds": seconds,
            "of all cores": work,
            "of the main thread": main_work,
            "of direct": alone.facts["seconds"]["total"],
            "moved far away mm": float(moved[far].max()),
            **{key: value for key, value in errors(pair, result, chosen).items() if key != "all"},
        }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += [
        "| " + " | ".join(f"{one:.3g}" if isinstance(one, float) else str(one) for one in row.values()) + " |" for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["points", "whole", "misplaced", "shape", "time"])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(given.threads)
    parts = {
        "points": lambda: points(given.kinds, given.seeds),
        "whole": lambda: whole(given.kinds, given.seeds),
        "misplaced": lambda: misplaced(given.kinds, given.seeds),
        "shape": lambda: shape(given.kinds, given.seeds),
        "time": lambda: second_look(given.seeds[:1]),
    }
    for name in given.parts:
        rows = []
        for row in parts[name]():
            rows.append(row)
            print(row, flush=True)
        print(f"\n{table(rows)}\n", flush=True)


if __name__ == "__main__":
    main()
