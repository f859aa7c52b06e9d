"""Damaged files and wrong options against the border of the library: each ends in an `InputError` or in a sound answer.

    python -m Testing.fuzz --seconds 3600          # an hour; prints what failed, with the number that repeats it
    python -m Testing.fuzz --first 4711 --cases 1  # one case again

The work is done in a process of its own, so that one that aborts is noticed, and under a limit of its memory, as headers may
claim anything.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
MEMORY_BYTES = 6 * 2**30
SECONDS_A_CASE = 60
FIRST_CASE = "case "

Make = Callable[[Path], None]


# seeds: small whole files of every kind


def _image() -> Any:
    import SimpleITK as sitk

    values = np.random.default_rng(0).integers(0, 255, (9, 10, 11)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.5, 2.0, 2.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    return image


def make_seeds(folder: Path) -> None:
    """Files whose damaged copies are tried."""
    import SimpleITK as sitk

    from RegistrationNetLib.models.catalogue import card_named

    from .dicom_files import CT, write_frames, write_series

    image = _image()
    for suffix in (".nii", ".nii.gz", ".hdr", ".nrrd", ".mha", ".mhd", ".vtk", ".gipl", ".mrc"):
        sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(folder / f"image{suffix}"), suffix == ".nrrd")
    sitk.WriteImage(sitk.Cast(image, sitk.sitkUInt8), str(folder / "image.tif"))
    for suffix in (".png", ".jpg", ".bmp"):
        sitk.WriteImage(sitk.Cast(image[:, :, 4], sitk.sitkUInt8), str(folder / f"plane{suffix}"))
    sitk.WriteImage(sitk.Cast(image > 100, sitk.sitkUInt8), str(folder / "mask.nrrd"))
    places = np.array([10.0, -20.0, 30.0]) + np.arange(9)[:, None] * (0, 0, 2.5)
    write_series(folder / "series", sitk.GetArrayFromImage(image), places, storage=CT)
    write_frames(folder / "frames.dcm", sitk.GetArrayFromImage(image), places, rescale=[(1.0, -3.0)] * 9)
    affine = sitk.AffineTransform([1, 0.1, 0, -0.1, 1, 0, 0, 0, 1], (1, 2, 3))
    for suffix in (".tfm", ".h5", ".mat"):
        sitk.WriteTransform(affine, str(folder / f"transform{suffix}"))
    rows = "".join(f"F-{k},{k}.5,{2 * k},-3.25,1\n" for k in range(4))
    (folder / "points.csv").write_text("label,l,p,s,defined\n" + rows)
    (folder / "plain.txt").write_text("1.5 2 3\n4 5 6.25\n")
    head = "# CoordinateSystem = LPS\n# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    (folder / "points.fcsv").write_text(head + "1,1,2,3,0,0,0,1,1,1,0,F-1,,,2,0\n")
    control = [{"id": "1", "label": "F-1", "position": [1.0, 2.0, 3.0], "positionStatus": "defined"}]
    markup = {"coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": control}
    (folder / "points.mrk.json").write_text(json.dumps({"markups": [markup]}))
    base = card_named("gradicon-knee")
    weights = {**(base.weights or {}), "file": "ours.trch"}
    (folder / "ours.card.json").write_text(json.dumps(replace(base, name="ours", weights=weights).as_dict()))


# damage


def damaged(content: bytes, chance: random.Random, *, is_text: bool) -> bytes:
    """The content with one to four changes, most of them near its beginning, where headers are."""
    result = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = int(len(result) * chance.random() ** chance.choice((1, 4)))
        kind = chance.randrange(7)
        if kind == 0:
            del result[place:]
        elif kind == 1:
            result[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            result[place : place + 4] = chance.choice(
                (b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f")
            )
        elif kind == 3:
            del result[place : place + chance.randint(1, 40)]
        elif kind == 4:
            result[place:place] = result[place : place + chance.randint(1, 40)]
        elif kind == 5 and is_text:
            result[place : place + 1] = chance.choice(WORDS).encode("utf-8", "surrogatepass")
        elif result:
            result[place - 1 : place] = bytes([result[place - 1] ^ (1 << chance.randrange(8))])
    return bytes(result)


WORDS = (
    "nan",
    "-inf",
    "1e400",
    "-1",
    "0",
    "99999999999",
    ",",
    ";",
    '"',
    "\n",
    "#",
    "\t",
    "x,y",
    "ä",
    "\ud800",
    "\x00",
    "{",
    "]",
    "null",
    "true",
    "1,5",
    " ",
)
TEXTS = (".nrrd", ".mha", ".mhd", ".vtk", ".tfm", ".csv", ".txt", ".fcsv", ".json")


def damaged_copy(seeds: Path, name: str, folder: Path, chance: random.Random) -> Path:
    """A damaged copy of a seed; of a folder, one of its files is damaged."""
    source, target = seeds / name, folder / name
    if source.is_dir():
        target.mkdir()
        for one in source.iterdir():
            (target / one.name).write_bytes(one.read_bytes())
        chosen = target / chance.choice(sorted(one.name for one in target.iterdir()))
        chosen.write_bytes(damaged(chosen.read_bytes(), chance, is_text=False))
        return target
    companion = {"image.hdr": "image.img", "image.mhd": "image.raw"}.get(name)
    if companion:
        (folder / companion).write_bytes((seeds / companion).read_bytes())
    content, is_text = source.read_bytes(), name.endswith(TEXTS)
    if name.endswith(".gz") and chance.random() < 0.7:
        target.write_bytes(gzip.compress(damaged(gzip.decompress(content), chance, is_text=False)))
    else:
        target.write_bytes(damaged(content, chance, is_text=is_text))
    return target


# what is done with it, and what must be true afterwards


def _try_image(path: Path, _: random.Random) -> None:
    import SimpleITK as sitk

    from RegistrationNetLib.io.inputs import check_geometry, checked_image

    image = checked_image(path, "fixed", lambda _: None)
    check_geometry(image, "fixed")
    assert np.isfinite(sitk.GetArrayViewFromImage(image)).all()


def _try_mask(path: Path, _: random.Random) -> None:
    import SimpleITK as sitk

    from RegistrationNetLib.io.label_images import checked_mask

    mask = checked_mask(path, _image(), "fixed mask", lambda _: None)
    assert mask.GetSize() == _image().GetSize()
    assert sitk.GetArrayViewFromImage(mask).any()


def _try_transform(path: Path, _: random.Random) -> None:
    from RegistrationNetLib.io.inputs import checked_pair
    from RegistrationNetLib.registration.initial_transform import initial_of

    image = _image()
    pair = checked_pair((image, image), modalities=("other", "other"), masks=(None, None), labels=(None, None))
    start = initial_of(path, pair)
    assert np.isfinite(start.matrix).all()


def _try_points(path: Path, _: random.Random) -> None:
    from RegistrationNetLib.io.landmarks import paired, read_points, write_points

    read = read_points(path, warn=lambda _: None)
    assert np.isfinite(read.points_mm).all()
    assert read.points_mm.shape == (len(read.labels), read.points_mm.shape[1])
    out = path.with_name(f"out-{path.name}")
    write_points(read, out)
    again = read_points(out, dim=read.points_mm.shape[1], warn=lambda _: None)
    assert np.allclose(again.points_mm, read.points_mm, atol=1e-6, rtol=1e-9)
    one, other = paired(read, read, lambda _: None)
    assert np.array_equal(one, other)


def _try_card(path: Path, _: random.Random) -> None:
    import torch

    from RegistrationNetLib.models.catalogue import read_own_card
    from RegistrationNetLib.registration.methods import untrained_network

    card = read_own_card(path)
    assert card.weights is None or card.weights["file"] == "ours.trch" or "/" not in card.weights["file"]
    with torch.device("meta"):
        untrained_network(card)


def _try_options(_: Path, chance: random.Random) -> None:
    from RegistrationNetLib.choices import OPTIONS
    from RegistrationNetLib.registration.argument_types import check_types
    from RegistrationNetLib.registration.options import checked_options

    pool: list[Any] = [
        None, "", "direct", "unigradicon", "nephi", "carl", "auto", "lncc", "mind", "field", "network", "none", "cpu", "cuda:7", "ct", "mr",
        0, 1, -1, 3, 2**70, 2.5, float("nan"), float("inf"), True, False, (), ("rigid",), ["centre", "warp"], {}, b"x", np.eye(4), object(), "\ud800",
    ]  # fmt: skip
    given = {name: chance.choice(pool) for name in OPTIONS if chance.random() < 0.3}
    check_types(given)
    sides = tuple(given.pop(f"{side}_modality", None) or "other" for side in ("fixed", "moving"))
    checked_options(given.pop("model", "direct"), modalities=sides, **given)


IMAGES = (
    "image.nii", "image.nii.gz", "image.hdr", "image.nrrd", "image.mha", "image.mhd", "image.vtk", "image.gipl", "image.mrc", "image.tif",
    "plane.png", "plane.jpg", "plane.bmp", "series", "frames.dcm",
)  # fmt: skip
TARGETS: tuple[tuple[str, Callable[[Path, random.Random], None]], ...] = (
    *((name, _try_image) for name in IMAGES),
    ("mask.nrrd", _try_mask),
    *((f"transform{suffix}", _try_transform) for suffix in (".tfm", ".h5", ".mat")),
    *((name, _try_points) for name in ("points.csv", "plain.txt", "points.fcsv", "points.mrk.json")),
    ("ours.card.json", _try_card),
    ("", _try_options),
)


def try_case(number: int, seeds: Path) -> None:
    """One case; raises whatever is neither an answer nor an error of this library."""
    from RegistrationNetLib.errors import RegistrationNetError

    chance = random.Random(number)
    name, work = TARGETS[number % len(TARGETS)]
    with tempfile.TemporaryDirectory() as folder:
        path = damaged_copy(seeds, name, Path(folder), chance) if name else Path(folder)
        try:
            work(path, chance)
        except RegistrationNetError as error:
            text = str(error)
            assert text.strip(), "an error without a word"
            assert not re.search(r"\(0x[0-9a-f]{6,}|at 0x", text), f"an address in {text}"
            text.encode("utf-8")


def _work(first: int, cases: int, seconds: float) -> int:
    """The process that does the work: each number is told before its case, and each failure after it."""
    import resource

    with tempfile.TemporaryDirectory() as folder:
        make_seeds(Path(folder))
        for module in ("RegistrationNetLib.registration.methods", "RegistrationNetLib.registration.options"):
            __import__(module)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        until, failed = time.monotonic() + seconds, 0
        for number in range(first, first + cases) if cases else itertools.count(first):
            if time.monotonic() > until:
                break
            print(f"{FIRST_CASE}{number}", flush=True)
            try:
                try_case(number, Path(folder))
            except BaseException:  # noqa: BLE001, whatever it is, it is what is looked for
                failed += 1
                print(f"FAILED {number} ({TARGETS[number % len(TARGETS)][0] or 'options'})\n{traceback.format_exc()}", flush=True)
    return failed


def failures(first: int = 0, *, cases: int = 0, seconds: float = 3600.0) -> Iterator[str]:
    """What failed among the cases from number `first` on, so many of them (0: no end) in so many seconds."""
    until, end = time.monotonic() + seconds, first + cases
    while (left := until - time.monotonic()) > 0 and (not cases or first < end):
        command = [sys.executable, "-m", "Testing.fuzz", "--work", "--first", str(first), "--seconds", str(left)]
        command += ["--cases", str(end - first)] if cases else []
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", cwd=ROOT, check=False, timeout=left + SECONDS_A_CASE
            )
            out, status = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            out, status = (error.stdout or b"").decode("utf-8", "replace"), -1
        last = first
        for part in out.split(FIRST_CASE)[1:]:
            number, _, told = part.partition("\n")
            last = int(number)
            if (place := told.find("FAILED ")) >= 0:
                yield told[place:].strip()
        if status not in (0, 1):
            yield f"FAILED {last} ({TARGETS[last % len(TARGETS)][0] or 'options'}): the process ended with {status}"
        elif not cases:
            return
        if status in (0, 1):
            return
        first = last + 1


def main() -> int:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=3600.0)
    options.add_argument("--cases", type=int, default=0, help="so many at most; default: no end")
    options.add_argument("--first", type=int, default=int(time.time()) * 1000, help="number of the first case; default: the time")
    options.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.work:
        return min(1, _work(given.first, given.cases, given.seconds))
    count = 0
    for told in failures(given.first, cases=given.cases, seconds=given.seconds):
        print(told, flush=True)
        count += 1
    print(f"{count} failures from case {given.first} on")
    return min(1, count)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
