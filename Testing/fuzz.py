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

from .fuzz_transforms import FORMATS, make_transform_seeds, try_transform

ROOT = Path(__file__).resolve().parents[1]
MEMORY_BYTES = 6 * 2**30
# Far more than a case takes, also on a busy machine: one that takes longer hangs.
SECONDS_A_CASE = 180
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
    make_transform_seeds(folder)
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
    _make_weights(folder)
    images = {name: str(folder / "image.nrrd") for name in ("fixed", "moving")} | {"fixed_mask": str(folder / "mask.nrrd")}
    matrix = [[1.0, 0.0, 0.0, 2.0], [0.0, 1.0, 0.0, -1.5], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    asked = {"model": "direct", "steps": 0, "align": ["centre"], "fixed_landmarks": [[1, 2, 3]], "moving_landmarks": [[1, 2, 4]]}
    requests = [
        {"id": 1, "do": "register", "images": images, "options": asked, "initial": {"matrix": matrix}, "folder": str(folder)},
        {
            "id": 2,
            "do": "register",
            "images": images,
            "options": {"device": "cpu"},
            "displacement_axes": [-1, -1, 1],
            "parts": True,
        },
        {"id": 3, "do": "import", "model": "unigradicon", "file": str(folder / "weights.trch")},
        {"id": 4, "do": "cancel"},
        {"id": 5, "do": "models"},
    ]
    (folder / "requests.jsonl").write_text("".join(json.dumps(one) + "\n" for one in requests))


def _tiny_network(_: object = None) -> Any:
    """A network with parameters and with the buffers of batch normalization, in the place of a card's own."""
    from torch import nn

    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))


def _make_weights(folder: Path) -> None:
    """Files of weights in both formats of torch, and one that asks for a program."""
    import torch

    state = {f"regis_net.{name}": value.clone() for name, value in _tiny_network().state_dict().items()}
    torch.save(state, folder / "weights.trch")
    torch.save(state, folder / "weights.old", _use_new_zipfile_serialization=False)
    torch.save(_tiny_network(), folder / "weights.program", _use_new_zipfile_serialization=False)


# damage


def damaged(content: bytes, chance: random.Random, *, is_text: bool) -> bytes:
    """The content with one to four changes, most of them near its beginning, where headers are."""
    result = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = int(len(result) * chance.random() ** chance.choice((1, 4)))
        kind = chance.randrange(8 if is_text else 7)
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
        elif kind == 7:
            numbers = list(NUMBER.finditer(result))
            if numbers:
                one = chance.choice(numbers)
                result[one.start() : one.end()] = chance.choice(ODD_NUMBERS)
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
TEXTS = (".nrrd", ".mha", ".mhd", ".vtk", ".tfm", ".csv", ".txt", ".fcsv", ".json", ".jsonl", ".lta", "flirt.mat")
NUMBER = re.compile(rb"-?\d+(\.\d+)?(e[-+]?\d+)?")
ODD_NUMBERS = (
    b"nan",
    b"-inf",
    b"1e400",
    b"-1e300",
    b"1e-300",
    b"-1",
    b"0",
    b"1",
    b"-2",
    b"3",
    b"2.5",
    b"99999999999",
    b"0x10",
    b"1,5",
)


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
    companion = {"image.hdr": "image.img", "image.mhd": "image.raw", "elastix.1.txt": "elastix.0.txt"}.get(name)
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
    from RegistrationNetLib.io.landmark_matching import matched
    from RegistrationNetLib.io.landmarks import read_points, write_points

    read = read_points(path, warn=lambda _: None)
    assert np.isfinite(read.points_mm).all()
    assert read.points_mm.shape == (len(read.labels), read.points_mm.shape[1])
    out = path.with_name(f"out-{path.name}")
    write_points(read, out)
    again = read_points(out, dim=read.points_mm.shape[1], warn=lambda _: None)
    assert np.allclose(again.points_mm, read.points_mm, atol=1e-6, rtol=1e-9)
    both = matched(read, read, lambda _: None)
    assert np.array_equal(both.fixed_mm, both.moving_mm)


def _try_card(path: Path, _: random.Random) -> None:
    import torch

    from RegistrationNetLib.models.catalogue import read_own_card
    from RegistrationNetLib.registration.methods import untrained_network

    card = read_own_card(path)
    assert card.weights is None or card.weights["file"] == "ours.trch" or "/" not in card.weights["file"]
    with torch.device("meta"):
        untrained_network(card)


def _try_weights(path: Path, chance: random.Random) -> None:
    """What is taken has this network's names and shapes, in finite numbers; also after whole tensors were changed or exchanged."""
    import torch

    from RegistrationNetLib.models.catalogue import card_named
    from RegistrationNetLib.models.checkpoint import check, load_into

    if chance.random() < 0.4:
        torch.save(_odd_state(chance), path)
    card = card_named("unigradicon")
    check(path, card, _tiny_network)
    network = _tiny_network()
    load_into(network, card, path)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def _odd_state(chance: random.Random) -> Any:
    """Tensors by name as they should not be."""
    import torch

    state: dict[Any, Any] = dict(_tiny_network().state_dict())
    odd: tuple[Any, ...] = (
        torch.tensor(torch.nan), torch.zeros(0), torch.zeros(3, dtype=torch.complex64), torch.zeros(3, 2, 3).to_sparse(), torch.zeros(3, 2, 4),
        torch.zeros(3, 2, 3, dtype=torch.float16), torch.full((3,), torch.inf), torch.empty(3, device="meta"), None, 5, "text", {}, [], (1, 2),
    )  # fmt: skip
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([*state, "", "module.0.weight", "encoder", 7])
        deed = chance.randrange(3)
        if deed == 0:
            state.pop(name, None)
        elif deed == 1:
            state[name] = chance.choice(odd)
        else:
            state[f"module.{name}"] = state.pop(name, chance.choice(odd))
    return chance.choice((state, state, state, {"state_dict": state}, list(state.values()), None))


def _try_requests(path: Path, chance: random.Random) -> None:
    """Each line is answered by an event of the protocol, whatever came before it; what fails inside would be told as a failure."""
    import io

    from RegistrationNetLib.errors import Cancelled, WorkerError
    from RegistrationNetLib.slicer_bridge import worker_services
    from RegistrationNetLib.slicer_bridge.messages import decoded, error_from
    from RegistrationNetLib.slicer_bridge.worker import Dispatcher, Work

    os.environ["REGISTRATIONNET_CACHE"] = str(path.parent)
    worker_services.register = _checked_only  # type: ignore[assignment]
    out, ended = io.BytesIO(), []
    dispatcher = Dispatcher(out)
    dispatcher.listen(io.BytesIO(_odd_requests(path, chance)), lambda: ended.append(True))
    assert ended
    while dispatcher._pending:
        request = dispatcher._pending.popleft()
        dispatcher._answer(request, Work(request["id"]), worker_services.SERVICES[request["do"]])
    for line in out.getvalue().splitlines():
        event = decoded(line)
        assert event["event"] in ("progress", "result", "error", "cancelled")
        if event["event"] == "error":
            error = error_from(event)
            assert not isinstance(error, (WorkerError, Cancelled)), error


def _odd_requests(path: Path, chance: random.Random) -> bytes:
    """The lines of the file, and one of them again with values exchanged."""
    content = path.read_bytes()
    try:
        request = json.loads(chance.choice(content.splitlines()))
    except (ValueError, IndexError, RecursionError):
        return content
    odd: tuple[Any, ...] = (
        None,
        5,
        -1.5,
        True,
        "",
        "\ud800",
        "a\0b",
        [],
        [[]],
        {},
        {"a": None},
        [None] * 3,
        [[1e999]],
        str(path),
        "..",
    )
    inner = (
        chance.choice([request, *(one for one in request.values() if isinstance(one, dict))]) if isinstance(request, dict) else {}
    )
    if inner:
        inner[chance.choice(list(inner))] = chance.choice(odd)
    return content + json.dumps(request).encode("ascii") + b"\n"


def _checked_only(fixed: Any, moving: Any, **given: Any) -> Any:
    """What `register` checks of its arguments, and no registration after it."""
    from RegistrationNetLib.errors import Cancelled
    from RegistrationNetLib.io.image_sources import modality_of
    from RegistrationNetLib.io.inputs import checked_pair
    from RegistrationNetLib.registration import pipeline
    from RegistrationNetLib.registration.argument_types import check_types
    from RegistrationNetLib.registration.initial_transform import initial_of
    from RegistrationNetLib.registration.options import checked_options

    given.pop("progress")
    check_types({"fixed": fixed, "moving": moving, **given})
    sides, both = ("fixed", "moving"), (fixed, moving)
    modalities = tuple(modality_of(one, given.pop(f"{side}_modality", None)) for one, side in zip(both, sides, strict=True))
    beside = {what: tuple(given.pop(f"{side}_{what}", None) for side in sides) for what in ("mask", "labels", "landmarks")}
    initial, labels = given.pop("initial", None), given.pop("landmark_labels", None)
    for name in ("rigid", "keep_volume", "previous"):
        given.pop(name, None)
    options = checked_options(given.pop("model", "direct"), modalities=modalities, **given)
    pair = checked_pair(both, modalities=modalities, masks=beside["mask"], labels=beside["labels"], warn=lambda _: None)
    pipeline._pairs_of(*beside["landmarks"], labels, pair, options)
    initial_of(initial, pair)
    raise Cancelled("cancelled; nothing was written")


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
    *((name, try_transform) for name in FORMATS),
    ("ours.card.json", _try_card),
    *((f"weights.{kind}", _try_weights) for kind in ("trch", "old", "program")),
    ("requests.jsonl", _try_requests),
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
            assert "\n" not in text, f"more than one line in {text}"
            assert not re.search(r"\(0x[0-9a-f]{6,}|at 0x", text), f"an address in {text}"
            text.encode("utf-8")


def _work(first: int, cases: int, seconds: float) -> int:
    """The process that does the work: each number is told before its case, and each failure after it."""
    import resource

    # Before all that takes long on a busy machine, as who waits for this process waits for so many seconds and little more.
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        make_seeds(Path(folder))
        for module in ("RegistrationNetLib.registration.methods", "RegistrationNetLib.registration.options"):
            __import__(module)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        failed = 0
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
