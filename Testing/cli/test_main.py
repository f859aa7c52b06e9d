"""The command line: what it gives, and how it fails."""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from RegistrationNetLib.cli import doctor, registration_commands, warping_commands
from RegistrationNetLib.cli.main import COMMANDS, main, parser
from RegistrationNetLib.errors import Cancelled, OutputError
from RegistrationNetLib.io.outputs import write_image
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.registration import pipeline as registration
from RegistrationNetLib.registration.methods import untrained_network

from ..loopback import Answer, Server, stalled, status, whole
from .conftest import QUICK, Status

RESULTS = {"transform.h5", "inverse.h5", "warped.nii.gz", "jacobian.nii.gz", "error_mm.nii.gz", "report.json", "report.html"}
README = Path(__file__).resolve().parents[2] / "README.md"


def blob(centre: Sequence[float], *, size: int = 24) -> sitk.Image:
    """A round blob on a slope, spacing 2 mm, int16."""
    points = np.stack(np.meshgrid(*[np.arange(size)] * len(centre), indexing="ij"))
    distance = np.linalg.norm(points - np.reshape(centre, (-1, *[1] * len(centre))), axis=0)
    image = sitk.GetImageFromArray((1000 * np.exp(-((distance / 5) ** 2)) + points[0]).astype(np.int16))
    image.SetSpacing([2.0] * len(centre))
    return image


class Place(NamedTuple):
    """A folder with files to work on."""

    folder: Path

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    fixed, moving = blob((12, 12, 12)), blob((12, 12, 13))
    sitk.WriteImage(fixed, str(tmp_path / "fixed.nii.gz"))
    sitk.WriteImage(moving, str(tmp_path / "moving.nii.gz"))
    for name, image in (("fixed", fixed), ("moving", moving)):
        sitk.WriteImage(sitk.Cast(image > 300, sitk.sitkUInt8) * 7, str(tmp_path / f"{name}_labels.nii.gz"))
    # Points of fixed to points of moving: moving's blob lies one voxel, 2 mm, further along x.
    sitk.WriteTransform(sitk.TranslationTransform(3, (2.0, 0.0, 0.0)), str(tmp_path / "shift.h5"))
    (tmp_path / "points.csv").write_text("x,y,z,label\n24,24,24,centre\n")
    (tmp_path / "moved.csv").write_text("x,y,z,label\n26,24,27,centre\n")
    return Place(tmp_path)


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "RegistrationNetLib", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=README.parent, timeout=120, **options)  # type: ignore[call-overload]


# register


@pytest.mark.slow
def test_nephi_is_a_choice_here_too(place: Place) -> None:
    given = ["--model", "nephi", "--similarity", "ncc", *QUICK, "--quiet"]
    assert main(["register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *given]) == 0
    report = json.loads((place.folder / "out" / "report.json").read_text())
    assert (report["model"], report["refine"]) == ("nephi", "network")


def test_register_writes_everything_and_prints_the_numbers(place: Place, status_of: Status) -> None:
    code, out, err = status_of("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK)
    assert (code, err) == (0, "")
    assert {path.name for path in (place.folder / "out").iterdir()} == RESULTS
    assert "Folded voxels" in out
    assert re.search(r"^  (green|amber|red)", out, re.MULTILINE)
    assert re.search(r"^(Fits|Look closely|Does not fit): .{20}", out, re.MULTILINE)
    assert "report.html" in out
    assert json.loads((place.folder / "out" / "report.json").read_text())["model"] == "direct"


@pytest.mark.slow
def test_quiet_prints_nothing(place: Place) -> None:
    done = run("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in (place.folder / "out").iterdir()} == RESULTS


def test_a_registration_worse_than_required_ends_with_status_3_and_its_results_written(place: Place, status_of: Status) -> None:
    noise = np.random.default_rng(0).normal(size=(24, 24, 24)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(noise), place / "noise.nii.gz")
    asked = ("register", place / "fixed.nii.gz", place / "noise.nii.gz", place / "out", *QUICK, "--quiet")
    for required in ("fits", "look-closely"):
        code, out, err = status_of(*asked, "--require", required)
        assert (code, out) == (3, "")
        assert re.search(f"worse than required \\({required.replace('-', ' ')}\\); does not fit: .+", err)
    assert {path.name for path in (place.folder / "out").iterdir()} == RESULTS
    verdict = json.loads((place.folder / "out" / "report.json").read_text())["verdict"]
    assert (verdict["colour"], verdict["words"]) == ("red", "does not fit")


def test_a_registration_as_good_as_required_ends_with_status_0(place: Place, status_of: Status) -> None:
    same = place / "fixed.nii.gz"
    assert status_of("register", same, same, place / "out", "--align", "centre", "--quiet", "--require", "fits") == (0, "", "")


FLAGS = {
    "--model": ("direct", "model", "direct"),
    "--refine": ("none", "refine", "none"),
    "--steps": ("3", "steps", 3),
    "--similarity": ("mi", "similarity", "mi"),
    "--fixed-modality": ("ct", "fixed_modality", "ct"),
    "--moving-modality": ("mr", "moving_modality", "mr"),
    "--fixed-mask": ("a", "fixed_mask", "a"),
    "--moving-mask": ("a", "moving_mask", "a"),
    "--fixed-labels": ("a", "fixed_labels", "a"),
    "--moving-labels": ("a", "moving_labels", "a"),
    "--align": ("centre,affine", "align", ("centre", "affine")),
    "--device": ("cpu", "device", "cpu"),
    "--weights": ("a", "weights", Path("a")),
    "--smoothness": ("2.5", "smoothness", 2.5),
    "--mirrored": (None, "mirrored", True),
    "--conserve-mass": (None, "conserve_mass", True),
    "--rigid": ("a", "rigid", "a"),
    "--keep-volume": ("a", "keep_volume", "a"),
    "--from": ("a", "previous", Path("a")),
    "--landmarks-pull": ("1.5", "tolerance", 1.5),
    "--repeats": ("5", "repeats", 5),
    "--resolution": ("1.5", "resolution", 1.5),
    "--seed": ("4", "seed", 4),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_reaches_the_road(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status_of: Status) -> None:
    text, name, value = FLAGS[flag]
    asked: dict[str, object] = {}

    def fake(fixed: str, moving: str, **options: object) -> None:
        asked.update(options, fixed=fixed, moving=moving)
        raise Cancelled("seen enough")

    monkeypatch.setattr(registration_commands, "register", fake)
    status_of("register", "F", "M", str(tmp_path / "out"), *([flag, text] if text else [flag]))
    assert (asked["fixed"], asked["moving"], asked[name]) == ("F", "M", value)


def test_the_initial_transform_and_the_landmarks_reach_the_road(
    place: Place, monkeypatch: pytest.MonkeyPatch, status_of: Status
) -> None:
    asked: dict[str, object] = {}

    def fake(*_: str, **options: object) -> None:
        asked.update(options)
        raise Cancelled("seen enough")

    monkeypatch.setattr(registration_commands, "register", fake)
    landmarks = ["--fixed-landmarks", place / "points.csv", "--moving-landmarks", place / "moved.csv"]
    status_of("register", "F", "M", place / "out", "--initial", place / "shift.h5", "--align", "none", *landmarks)
    initial = asked["initial"]
    assert isinstance(initial, sitk.Transform)
    assert initial.TransformPoint((0, 0, 0)) == (2, 0, 0)
    assert asked["align"] == ()
    assert np.array_equal(asked["fixed_landmarks"], [[24, 24, 24]])
    assert np.array_equal(asked["moving_landmarks"], [[26, 24, 27]])
    assert asked["landmark_labels"] == ("centre",)


def test_every_flag_of_register_has_a_test_above(status_of: Status) -> None:
    flags = set(re.findall(r"--[a-z-]+", status_of("register", "--help")[1])) - {
        "--help",
        "--debug",
        "--quiet",
        "--verbose",
        "--json",
        "--anonymous",
    }
    assert flags - set(FLAGS) == {"--initial", "--fixed-landmarks", "--moving-landmarks", "--require"}


# warp, points, jacobian, evaluate


def test_warp_keeps_the_pixel_type_and_lays_moving_on_fixed(place: Place, status_of: Status) -> None:
    arguments = ["--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    assert status_of("warp", place / "moving.nii.gz", place / "warped.nii.gz", *arguments) == (0, "", "")
    warped, fixed = sitk.ReadImage(place / "warped.nii.gz"), sitk.ReadImage(place / "fixed.nii.gz")
    assert warped.GetPixelID() == fixed.GetPixelID()
    inner = (slice(None), slice(None), slice(0, 22))
    assert (sitk.GetArrayFromImage(warped)[inner] == sitk.GetArrayFromImage(fixed)[inner]).all()


def test_warp_of_labels_makes_no_new_label(place: Place, status_of: Status) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.9, 0.3, 0.4)), place / "half.h5")
    arguments = ["--transform", place / "half.h5", "--like", place / "fixed.nii.gz"]
    for flags, values in ((["--no-labels"], "more"), (["--labels"], "same")):
        assert status_of("warp", place / "moving_labels.nii.gz", place / "warped.nrrd", *arguments, *flags)[0] == 0
        seen = set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(place / "warped.nrrd"))).tolist())
        assert (seen == {0, 7}) == (values == "same")


def test_warp_takes_many_images_into_a_folder(place: Place, status_of: Status) -> None:
    series = sitk.JoinSeries([sitk.ReadImage(place / "moving.nii.gz")] * 2)
    sitk.WriteImage(series, place / "series.nrrd")
    arguments = ["--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    several = [place / "moving.nii.gz", place / "series.nrrd"]
    assert status_of("warp", *several, place / "out", *arguments) == (0, "", "")
    assert {path.name for path in (place.folder / "out").iterdir()} == {"moving.nii.gz", "series.nrrd"}
    assert status_of("warp", several[0], place / "alone.nrrd", *arguments)[0] == 0
    alone = sitk.GetArrayFromImage(sitk.ReadImage(place / "alone.nrrd"))
    assert (sitk.GetArrayFromImage(sitk.ReadImage(place / "out/moving.nii.gz")) == alone).all()
    moments = sitk.GetArrayFromImage(sitk.ReadImage(place / "out/series.nrrd"))
    assert moments.shape == (2, *alone.shape)
    assert (moments == alone).all()
    assert status_of("warp", several[1], place / "out", *arguments)[0] == 0


def test_warp_of_many_images_writes_all_or_none(place: Place, status_of: Status) -> None:
    arguments = ["--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    before = place.names
    refused(status_of("warp", place / "moving.nii.gz", place / "missing.nii.gz", place / "out", *arguments), "no file .*missing")
    again = f"{place.folder}/../{place.folder.name}/moving.nii.gz"
    told = "2 of the images would become moving.nii.gz"
    refused(status_of("warp", place / "moving.nii.gz", again, place / "out", *arguments), told)
    assert place.names == before


def test_no_command_writes_over_what_it_reads(place: Place, status_of: Status) -> None:
    (place.folder / "points.csv").write_text("x,y,z\n1,2,3\n")
    before = {path.name: path.read_bytes() for path in place.folder.iterdir() if path.is_file()}
    arguments = ["--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    moving, fixed = place / "moving.nii.gz", place / "fixed.nii.gz"
    for given in (
        ["warp", moving, moving, *arguments],
        ["warp", moving, fixed, *arguments],
        ["warp", moving, place.folder, *arguments],
        ["jacobian", fixed, *arguments],
        ["points", place / "points.csv", place / "points.csv", "--transform", place / "shift.h5"],
        ["convert", place / "shift.h5", place / "shift.h5"],
    ):
        refused(status_of(*given), "is read, and the result would be written over it")
    assert {path.name: path.read_bytes() for path in place.folder.iterdir() if path.is_file()} == before


def test_several_images_become_no_folder_with_the_name_of_an_image(place: Place, status_of: Status) -> None:
    arguments = ["--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    given = ["warp", place / "moving.nii.gz", place / "fixed.nii.gz", place / "forgotten.nii.gz"]
    refused(
        status_of(*given, *arguments),
        "forgotten.nii.gz is named as an image, and 2 images were given to warp, which go into a folder",
    )


def test_interpolation_and_the_value_outside_are_choices(place: Place, status_of: Status) -> None:
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.9, 0.3, 41.0)), place / "far.h5")
    arguments = ["--transform", place / "far.h5", "--like", place / "fixed.nii.gz"]
    found = {}
    for flags in ([], ["--interpolation", "bspline"], ["--interpolation", "nearest"], ["--fill", "-5"]):
        assert status_of("warp", place / "moving.nii.gz", place / "w.nrrd", *arguments, *flags) == (0, "", "")
        found[" ".join(flags)] = sitk.GetArrayFromImage(sitk.ReadImage(place / "w.nrrd"))
    usual = found.pop("")
    assert all((one != usual).any() for one in found.values())
    assert found["--fill -5"].min() == -5
    given = ["warp", place / "moving_labels.nii.gz", place / "w.nrrd", *arguments]
    assert status_of(*given, "--interpolation", "label-gaussian")[0] == 0
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(place / "w.nrrd")))) <= {0, 7}
    refused(
        status_of(*given, "--labels", "--interpolation", "linear"),
        "The interpolation linear is for images, and --labels says otherwise",
    )
    refused(
        status_of(*given, "--no-labels", "--interpolation", "nearest"), "nearest is for labels, and --no-labels says otherwise"
    )
    refused(status_of(*given, "--labels", "--fill", "nan"), "--fill: 'nan' is not a number")


def test_points_go_from_fixed_to_moving_and_keep_their_columns(place: Place, status_of: Status) -> None:
    assert status_of("points", place / "points.csv", place / "out.csv", "--transform", place / "shift.h5") == (0, "", "")
    assert (place.folder / "out.csv").read_text() == "x,y,z,label\n26.000000,24.000000,24.000000,centre\n"


def test_jacobian_of_a_scaling_is_its_volume(place: Place, status_of: Status) -> None:
    sitk.WriteTransform(sitk.ScaleTransform(3, (2.0, 1.0, 0.5)), place / "scale.h5")
    arguments = ["--transform", place / "scale.h5", "--like", place / "fixed.nii.gz"]
    assert status_of("jacobian", place / "jacobian.nii.gz", *arguments) == (0, "", "")
    assert sitk.GetArrayFromImage(sitk.ReadImage(place / "jacobian.nii.gz")) == pytest.approx(1.0, abs=1e-5)


def test_evaluate_gives_dice_distances_and_folds(place: Place, status_of: Status) -> None:
    labels = ["--fixed-labels", place / "fixed_labels.nii.gz", "--moving-labels", place / "moving_labels.nii.gz"]
    landmarks = ["--fixed-landmarks", place / "points.csv", "--moving-landmarks", place / "moved.csv"]
    transform = ["--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    code, out, err = status_of("evaluate", *labels, *landmarks, *transform, "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["dice"]["7"]["before"] < content["dice"]["7"]["after"] == 1.0
    assert content["landmarks_mm"]["count"] == 1
    assert content["landmarks_mm"]["before"]["mean"] == pytest.approx(13**0.5)
    assert content["landmarks_mm"]["after"]["mean"] == pytest.approx(3.0)
    assert content["jacobian"]["folded_percent"] == 0
    assert content["displacement_mm"]["max"] == pytest.approx(2.0)
    code, out, err = status_of("evaluate", *labels, *landmarks, *transform)
    assert (code, err) == (0, "")
    assert re.search(r"^  landmarks_mm after mean +3$", out, re.MULTILINE)


def test_evaluate_without_a_transform_takes_the_images_as_they_lie(place: Place, status_of: Status) -> None:
    code, out, _ = status_of(
        "evaluate", "--fixed-landmarks", place / "points.csv", "--moving-landmarks", place / "moved.csv", "--json"
    )
    assert code == 0
    content = json.loads(out)["landmarks_mm"]
    assert content["before"] == content["after"]


# models, doctor, demo


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """A server that gives its answers in place of where the weights are published."""
    with ExitStack() as stack:

        def serve(*answers: Answer) -> Server:
            server = stack.enter_context(Server(list(answers)).running())
            monkeypatch.setenv("REGISTRATIONNET_WEIGHTS_URL", server.url)
            return server

        yield serve


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of unigradicon's tensors; it is small because each tensor is one element, repeated."""
    with torch.device("meta"):
        state = untrained_network(card_named("unigradicon")).state_dict()
    path = tmp_path_factory.mktemp("published") / "Step_2_final.trch"
    torch.save({name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}, path)
    return path


def state_of(model: str, status_of: Status) -> str:
    listed = {card["name"]: card for card in json.loads(status_of("models", "list", "--json")[1])}
    assert json.loads(status_of("models", "show", model, "--json")[1]) == listed[model]
    return str(listed[model]["state"]["kind"])


def test_models_are_listed_and_shown(status_of: Status, cache: Path) -> None:
    for arguments in (["models"], ["models", "list"]):
        code, out, err = status_of(*arguments)
        assert (code, err) == (0, "")
        assert re.search(r"^direct +none needed", out, re.MULTILINE)
        assert re.search(r"^unigradicon +missing, about 283 MB +uniGradICON", out, re.MULTILINE)
        assert out.endswith(f"Weights lie in {cache} (0 kB)\n")
    code, out, _ = status_of("models", "show", "direct", "--json")
    assert code == 0
    assert json.loads(out)["name"] == "direct"
    assert status_of("models", "show", "direct")[1].startswith("name ")
    assert state_of("direct", status_of) == "none needed"
    assert not cache.exists(), "looking creates nothing"


def test_weights_are_downloaded_used_and_removed(
    status_of: Status, cache: Path, mirror: Callable[..., Server], published: Path
) -> None:
    server = mirror(whole(published.read_bytes()))
    code, out, err = status_of("models", "download", "unigradicon")
    sha256 = hashlib.sha256(published.read_bytes()).hexdigest()
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"unigradicon is ready: {cache / 'unigradicon.trch'}"
    assert out.splitlines()[1].startswith(f"SHA-256 {sha256}; ")
    assert [address for address, _ in server.seen] == ["/unigradicon.trch"]
    assert state_of("unigradicon", status_of) == "ready"
    assert re.search(r"^unigradicon +ready, \d+ kB", status_of("models")[1], re.MULTILINE)
    assert status_of("models", "download", "unigradicon", "--quiet") == (0, "", "")
    assert len(server.seen) == 1
    code, out, err = status_of("models", "remove", "unigradicon")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"unigradicon: \d+ kB freed\n", out)
    assert status_of("models", "remove", "unigradicon")[1] == "unigradicon: there was nothing to remove\n"
    assert status_of("models", "remove", "unigradicon", "--quiet") == (0, "", "")
    assert list(cache.iterdir()) == []


def test_weights_are_imported(status_of: Status, cache: Path, published: Path) -> None:
    code, out, err = status_of("models", "import", "unigradicon", str(published))
    sha256 = hashlib.sha256(published.read_bytes()).hexdigest()
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"unigradicon is ready: {cache / 'unigradicon.trch'}"
    assert out.splitlines()[1].startswith(f"SHA-256 {sha256}; ")
    assert state_of("unigradicon", status_of) == "ready"
    assert status_of("models", "import", "unigradicon", str(published), "--quiet") == (0, "", "")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(404), r"answered 404 .*models import unigradicon FILE"),
        (whole(b"<html>Sign in</html>"), "it is a web page"),
        (whole(b"junk"), "cannot be used.*not a whole file of weights"),
    ],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(
    answer: Answer, message: str, status_of: Status, cache: Path, mirror: Callable[..., Server]
) -> None:
    mirror(answer)
    code, out, err = status_of("models", "download", "unigradicon")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert re.search(message, err)
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to a waiting process is a POSIX notion")
def test_ctrl_c_in_a_silent_download_leaves_nothing(status_of: Status, cache: Path, mirror: Callable[..., Server]) -> None:
    leave = threading.Event()
    silent = stalled(bytes(2**20), leave)

    def interrupting(handler: BaseHTTPRequestHandler) -> None:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        silent(handler)

    mirror(interrupting)
    assert status_of("models", "download", "unigradicon") == (130, "", "registrationnet: cancelled; nothing was written\n")
    leave.set()
    assert list(cache.iterdir()) == []


def test_doctor_prints_what_is_wrong_and_what_to_do(monkeypatch: pytest.MonkeyPatch, status_of: Status) -> None:
    findings = [doctor.Finding("torch", "2.13"), doctor.Finding("memory", "3 MiB", "close other programs")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    code, out, err = status_of("doctor")
    assert (code, err) == (1, "")
    assert out.splitlines() == ["ok  torch   2.13", "!!  memory  3 MiB", "!! memory: close other programs"]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings[:1]))
    assert status_of("doctor")[0] == 0
    assert json.loads(status_of("doctor", "--json")[1])[0]["what"] == "torch"


def test_demo_saves_the_pair_with_the_results_and_tells_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status_of: Status
) -> None:
    full_demo_pair, full_register = registration_commands.demo_pair, registration_commands.register
    monkeypatch.setattr(registration_commands, "demo_pair", lambda seed: full_demo_pair(seed, shape=(24, 28, 24), spacing_mm=8.0))
    monkeypatch.setattr(
        registration_commands, "register", lambda *images, **options: full_register(*images, steps=3, align=["centre"], **options)
    )
    code, out, err = status_of("demo", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    pair = {"fixed.nii.gz", "moving.nii.gz", "fixed_labels.nii.gz", "moving_labels.nii.gz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS | pair
    assert re.search(r"^  before +[0-9.]+ mm", out, re.MULTILINE)
    assert re.search(r"^  after +[0-9.]+ mm", out, re.MULTILINE)
    assert re.search(r"^  expected +[0-9.]+ mm", out, re.MULTILINE)
    assert re.search(r"^Mean Dice of the structures: 0\.[0-9]+ before, 0\.[0-9]+ after$", out, re.MULTILINE)
    truth = json.loads((tmp_path / "out" / "report.json").read_text())["truth"]
    assert truth["error_mm_before"]["mean"] > truth["error_mm_after"]["mean"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# what is wrong with the input


def image_of(array: np.ndarray, *, is_vector: bool = False) -> sitk.Image:
    return sitk.GetImageFromArray(array, isVector=is_vector)


def with_hole(value: float) -> sitk.Image:
    array = sitk.GetArrayFromImage(blob((12, 12, 12))).astype(np.float32)
    array[3, 4, 5] = value
    return image_of(array)


BAD_IMAGES: dict[str, tuple[Callable[[], sitk.Image], str]] = {
    "2-D": (lambda: blob((12, 12)), "dimension|2-D"),
    "4-D": (lambda: sitk.JoinSeries([blob((12, 12, 12))] * 2), "dimension|4-D"),
    "RGB": (lambda: image_of(np.zeros((24, 24, 24, 3), np.uint8), is_vector=True), "values per voxel|channel"),
    "NaN": (lambda: with_hole(np.nan) * np.nan, "NaN"),
    "inf": (lambda: with_hole(np.inf), "infinite"),
    "constant": (lambda: image_of(np.full((24, 24, 24), 5, np.int16)), "one value everywhere"),
    "one slice": (lambda: blob((12, 12, 12))[:, :, 12:13], "voxels"),
}


@pytest.mark.parametrize("side", ["fixed", "moving"])
@pytest.mark.parametrize("what", BAD_IMAGES)
def test_a_bad_image_is_refused_in_one_line(what: str, side: str, place: Place, status_of: Status) -> None:
    make, message = BAD_IMAGES[what]
    sitk.WriteImage(make(), place / "bad.nrrd")
    before = place.names
    pair = {"fixed": place / "fixed.nii.gz", "moving": place / "moving.nii.gz", side: place / "bad.nrrd"}
    refused(status_of("register", pair["fixed"], pair["moving"], place / "out", *QUICK), message)
    assert place.names == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "unknown"], "no model 'unknown'; the models are .*direct"),
        (["--similarity", "unknown"], "unknown.*lncc"),
        (["--weights", "w.pt"], "weights"),
        (["--fixed-labels", "{}/fixed_labels.nii.gz"], "Labels came for one image only"),
        (["--fixed-mask", "{}/missing.nii.gz"], "no file .*missing.nii.gz"),
        (["--fixed-mask", "{}/empty.nii.gz"], "mask is empty"),
        (["--moving-mask", "{}/elsewhere.nii.gz"], "moving mask does not overlap its image"),
        (["--fixed-labels", "{}/elsewhere.nii.gz", "--moving-labels", "{}/moving_labels.nii.gz"], "labels does not overlap"),
        (["--fixed-mask", "{}/flat.nii.gz"], "fixed mask has 2 dimensions and its image 3"),
        (["--initial", "{}/missing.h5"], "no transform file .*missing.h5"),
        (["--initial", "{}/fixed.nii.gz"], "is no image of displacements"),
        (["--fixed-landmarks", "{}/points.csv"], "Add --moving-landmarks"),
        (["--steps", "-1"], "--steps: '-1' is not a whole number"),
        (["--smoothness", "0"], "--smoothness: '0' is not a number above 0"),
        (["--smoothness", "nan"], "--smoothness: 'nan' is not a number above 0"),
        (["--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["--align", "rigid,warp"], "--align: 'warp' is not one of centre, pose, rigid, similarity, affine"),
        (["--device", "tpu"], "--device: 'tpu' is not one of auto, cpu"),
        (["--refine", "all"], "--refine: invalid choice: 'all'"),
        (["--fixed-modality", "pet"], "--fixed-modality: invalid choice: 'pet'"),
        (["--what"], "unrecognized arguments: --what"),
        (["--smothness", "2"], r"unrecognized arguments: --smothness 2 \(did you mean --smoothness\?\)"),
        (["--fixed-mask-file=a"], r"did you mean --fixed-mask\?"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(flags: list[str], message: str, place: Place, status_of: Status) -> None:
    sitk.WriteImage(sitk.Image([24, 24], sitk.sitkUInt8) + 1, place / "flat.nii.gz")
    sitk.WriteImage(sitk.ReadImage(place / "fixed_labels.nii.gz") * 0, place / "empty.nii.gz")
    elsewhere = sitk.ReadImage(place / "moving_labels.nii.gz")
    elsewhere.SetOrigin((500, 500, 500))
    sitk.WriteImage(elsewhere, place / "elsewhere.nii.gz")
    before = place.names
    filled = [flag.format(place.folder) for flag in flags]
    refused(status_of("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *filled), message)
    assert place.names == before


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "required: COMMAND"),
        ("fly", "invalid choice: 'fly'"),
        ("register {}/fixed.nii.gz", "required: MOVING"),
        ("register {}/missing.nii.gz {}/moving.nii.gz {}/out", "no file .*missing.nii.gz"),
        ("register {}/points.csv {}/moving.nii.gz {}/out", "points.csv cannot be read as an image"),
        ("register {} {}/moving.nii.gz {}/out", "0 DICOM series"),
        ("register {}/fixed.nii.gz {}/moving.nii.gz {}/points.csv", "points.csv is a file"),
        ("register {}/fixed.nii.gz {}/moving.nii.gz {}/points.csv/out", "points.csv is a file"),
        ("demo {}/points.csv", "points.csv is a file"),
        ("warp {}/fixed.nii.gz {}/w.nii.gz --like {}/fixed.nii.gz", "required: --transform"),
        ("warp {}/fixed.nii.gz {}/w.xyz --transform {}/shift.h5 --like {}/fixed.nii.gz", "w.xyz names no image format"),
        ("warp {}/fixed.nii.gz {}/no/w.nii.gz --transform {}/shift.h5 --like {}/fixed.nii.gz", "does not exist"),
        ("warp {}/fixed.nii.gz {}/w.nii.gz --transform {}/junk.h5 --like {}/fixed.nii.gz", "cannot be read as an ITK"),
        ("warp {}/flat.nii.gz {}/w.nii.gz --transform {}/shift.h5 --like {}/fixed.nii.gz", "image 2-D, grid 3-D"),
        ("points {}/missing.csv {}/o.csv --transform {}/shift.h5", "Cannot read .*missing.csv"),
        ("points {}/bad.csv {}/o.csv --transform {}/shift.h5", "bad.csv, line 3: 'x' is not a number"),
        ("jacobian {}/j.nii.gz --transform {}/shift.h5 --like {}/flat.nii.gz", "dimension"),
        ("evaluate", "Nothing to evaluate"),
        ("evaluate --like {}/fixed.nii.gz", "Add --transform"),
        ("evaluate --fixed-labels {}/fixed_labels.nii.gz", "Add --moving-labels"),
        ("evaluate --moving-landmarks {}/points.csv", "Add --fixed-landmarks"),
        ("models show unknown", "no model 'unknown'; the models are .*direct"),
        ("models download unknown", "no model 'unknown'; the models are .*direct"),
        ("models download direct", "direct needs no weights"),
        ("models import unknown {}/junk.h5", "no model 'unknown'; the models are .*direct"),
        ("models import unigradicon {}/missing", "Cannot read .*missing"),
        ("models import unigradicon {}/junk.h5", "not a whole file of weights"),
        ("models import direct {}/junk.h5", "direct needs no weights"),
        ("models remove unknown", "no model 'unknown'; the models are .*direct"),
        ("models remove direct", "direct needs no weights"),
    ],
)
def test_a_bad_command_is_refused_in_one_line(
    command: str, message: str, place: Place, status_of: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", place / "cache")
    (place.folder / "cache").mkdir()
    (place.folder / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (place.folder / "bad.csv").write_text("1,2,3\n4,5,6\n7,x,9\n")
    sitk.WriteImage(blob((12, 12)), place / "flat.nii.gz")
    before = place.names
    refused(status_of(*shlex.split(command.replace("{}", shlex.quote(str(place.folder))))), message)
    assert place.names == before


def refused(done: tuple[int, str, str], message: str) -> None:
    code, out, err = done
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("registrationnet: ")
    assert re.search(message, err), err


def test_native_libraries_do_not_add_lines_of_their_own(place: Place) -> None:
    (place.folder / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    done = run("points", place / "points.csv", place / "out.csv", "--transform", place / "junk.h5")
    refused((done.returncode, done.stdout, done.stderr), "cannot be read as an ITK transform")


# what goes wrong inside


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (OutputError("The disk\nis full."), 1, "registrationnet: The disk is full.\n"),
        (Cancelled("by the user"), 130, "registrationnet: cancelled; nothing was written\n"),
        (KeyboardInterrupt(), 130, "registrationnet: cancelled; nothing was written\n"),
        (MemoryError(), 1, "registrationnet: Out of memory; close other programs or use smaller images.\n"),
    ],
)
def test_a_failure_is_told_in_one_line(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, status_of: Status
) -> None:
    monkeypatch.setattr(doctor, "examine", failing(error))
    assert status_of("doctor") == (status, "", line)


def failing(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


def test_an_unexpected_failure_is_one_line_and_on_request_a_traceback(monkeypatch: pytest.MonkeyPatch, status_of: Status) -> None:
    monkeypatch.setattr(doctor, "examine", failing(ZeroDivisionError("oh")))
    monkeypatch.delenv("REGISTRATIONNET_DEBUG", raising=False)
    line = "registrationnet: failed inside: ZeroDivisionError: oh (--debug tells where)"
    assert status_of("doctor") == (1, "", line + "\n")
    code, _, err = status_of("doctor", "--debug")
    assert code == 1
    assert err.startswith("Traceback")
    assert err.endswith(line + "\n")
    monkeypatch.setenv("REGISTRATIONNET_DEBUG", "1")
    assert status_of("doctor")[2].startswith("Traceback")


def test_an_interrupt_that_a_library_disguises_is_still_a_cancel(monkeypatch: pytest.MonkeyPatch, status_of: Status) -> None:
    def disguising() -> object:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("a module failed to load") from error
        return iter(())

    monkeypatch.setattr(doctor, "examine", disguising)
    assert status_of("doctor") == (130, "", "registrationnet: cancelled; nothing was written\n")


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    command = [sys.executable, "-m", "RegistrationNetLib", "models", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=README.parent) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("at", [1, 2])
def test_ctrl_c_while_the_results_are_written_leaves_nothing(
    at: int, place: Place, monkeypatch: pytest.MonkeyPatch, status_of: Status
) -> None:
    written: list[Path] = []

    def interrupting(image: sitk.Image, path: Path, **given: Any) -> None:
        written.append(path)
        if len(written) == at:
            signal.raise_signal(signal.SIGINT)
        write_image(image, path, **given)

    monkeypatch.setattr(registration, "write_image", interrupting)
    before = place.names
    done = status_of("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK)
    assert done == (130, "", "registrationnet: cancelled; nothing was written\n")
    assert place.names == before
    assert len(written) == at


def interrupted(place: Place, seconds: float, *, number: signal.Signals = signal.SIGINT) -> subprocess.CompletedProcess[str]:
    """`registrationnet demo`, interrupted after so long."""
    command = [sys.executable, "-m", "RegistrationNetLib", "demo", place / "out"]
    environment = {**os.environ, "TMPDIR": place / "tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    (place.folder / "tmp").mkdir(exist_ok=True)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=README.parent, env=environment) as process:
        time.sleep(seconds)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, "", err)


def left_behind(place: Place) -> set[str]:
    return {
        path.name
        for path in place.folder.rglob("*")
        if "out" in path.name or path.name.startswith(".") or path.parent.name == "tmp"
    }


@pytest.mark.skipif(sys.platform == "win32", reason="signals to a child are a POSIX notion")
def test_ctrl_c_leaves_nothing(place: Place) -> None:
    done = interrupted(place, 5.0)
    assert (done.returncode, done.stderr) == (130, "registrationnet: cancelled; nothing was written\n")
    assert left_behind(place) == set()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals to a child are a POSIX notion")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.4, 0.7, 1.0, 1.5, 2.0, 3.0, 8.0])
def test_ctrl_c_at_any_moment_leaves_nothing(place: Place, seconds: float, number: signal.Signals) -> None:
    done = interrupted(place, seconds, number=number)
    assert (done.returncode, done.stderr) == (130, "registrationnet: cancelled; nothing was written\n")
    assert left_behind(place) == set()


# what the README says; that its commands are understood is seen in Testing/test_documentation.py


def readme_commands() -> list[str]:
    blocks = re.findall(r"```(\w*)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(block for language, block in blocks if language == "bash").replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("registrationnet ")]


def test_the_readme_shows_every_command() -> None:
    shown = {parser().parse_args(shlex.split(line, comments=True)[1:]).command for line in readme_commands()}
    assert shown == set(COMMANDS)


def test_help_of_every_command_is_there(status_of: Status) -> None:
    for name in ("register", "warp", "points", "jacobian", "evaluate", "models", "doctor", "demo", "train", "finetune", "cohort"):
        code, out, err = status_of(name, "--help")
        assert (code, err) == (0, "")
        assert out.startswith(f"usage: registrationnet {name}")
    assert status_of("--version")[0] == 0


# files that people bring: read with a word about it, or refused before the work


def test_warnings_are_printed_once_and_stand_in_the_report(place: Place, status_of: Status) -> None:
    labels = sitk.ReadImage(place / "fixed_labels.nii.gz")
    sitk.WriteImage(sitk.Crop(labels, (3, 3, 3), (3, 3, 3)), place / "cropped.seg.nrrd")
    given = ["register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK]
    code, _, err = status_of(*given, "--fixed-mask", place / "cropped.seg.nrrd")
    assert code == 0
    (line,) = err.splitlines()
    assert re.match("registrationnet: warning: fixed mask lies on another grid than fixed .* by the nearest voxel", line)
    assert json.loads((place.folder / "out" / "report.json").read_text())["warnings"] == [line.partition("warning: ")[2]]
    assert status_of(*given, "--fixed-mask", place / "cropped.seg.nrrd", "--quiet") == (0, "", "")


def test_reports_name_files_without_their_folders_or_not_at_all(place: Place, status_of: Status) -> None:
    given = [place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK, "--quiet"]
    assert status_of("register", *given)[0] == 0
    page = (place.folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "fixed.nii.gz" in page
    assert place.folder.name not in page
    assert status_of("register", *given, "--anonymous")[0] == 0
    for name in ("report.html", "report.json"):
        text = (place.folder / "out" / name).read_text(encoding="utf-8")
        assert "fixed.nii.gz" not in text
        assert place.folder.name not in text


def warp(place: Place, image: str, out: str, *flags: str) -> list[str]:
    return ["warp", place / image, place / out, "--transform", place / "shift.h5", "--like", place / "fixed.nii.gz", *flags]


@pytest.mark.parametrize("name", ["warped.png", "warped.TIF", "warped.tiff"])
def test_a_format_that_cannot_hold_the_result_is_refused_before_the_work(place: Place, status_of: Status, name: str) -> None:
    before = place.names
    refused(status_of(*warp(place, "moving.nii.gz", name)), f"{name} would be a picture.*Take one of .nii.gz")
    jacobian = ["jacobian", place / name, "--transform", place / "shift.h5", "--like", place / "fixed.nii.gz"]
    refused(status_of(*jacobian), f"{name} would be a picture")
    assert place.names == before


@pytest.mark.parametrize("name", ["warped.NII.GZ", "warped.Nrrd", "warped.MHA", "warped.MHD"])
def test_a_suffix_in_capitals_is_a_suffix(place: Place, status_of: Status, name: str) -> None:
    assert status_of(*warp(place, "moving.nii.gz", name)) == (0, "", "")
    small = {"warped.NII.GZ": "a.nii.gz", "warped.Nrrd": "a.nrrd", "warped.MHA": "a.mha", "warped.MHD": "a.mhd"}[name]
    os.rename(place / name, place / small)  # noqa: PTH104
    assert sitk.ReadImage(place / small).GetSize() == (24, 24, 24)


def test_a_folder_that_cannot_be_written_is_noticed_before_the_work(
    place: Place, status_of: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(status_of(*warp(place, "moving.nii.gz", "warped.nii.gz")), "cannot be written; outputs go into one that can")
    given = ["register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK]
    refused(status_of(*given), "cannot be written; outputs go into one that can")


def test_a_full_disk_is_noticed_before_the_work(place: Place, status_of: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    def nearly_full(_: object) -> SimpleNamespace:
        return SimpleNamespace(free=2**20)

    monkeypatch.setattr("RegistrationNetLib.io.outputs.shutil.disk_usage", nearly_full)
    code, out, err = status_of("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK)
    assert (code, out) == (1, "")
    assert "The results need about 10 MB; the disk of" in err


def test_a_label_map_is_asked_about(place: Place, status_of: Status) -> None:
    refused(status_of(*warp(place, "moving_labels.nii.gz", "w.nrrd")), "looks like a label map .* Add --labels, or --no-labels")
    assert status_of(*warp(place, "moving_labels.nii.gz", "w.nrrd", "--labels"))[0] == 0


@pytest.mark.parametrize("order", [["models", "--json", "show", "direct"], ["models", "show", "direct", "--json"]])
def test_json_is_json_wherever_it_is_asked_for(status_of: Status, cache: Path, order: list[str]) -> None:
    assert cache
    assert json.loads(status_of(*order)[1])["name"] == "direct"


def test_an_own_model_with_a_bad_card_is_removed_and_stands_in_nobodys_way(status_of: Status, cache: Path) -> None:
    cache.mkdir(parents=True)
    for name in ("bad.card.json", "bad.trch", "bad.trch.json"):
        (cache / name).write_text("{")
    code, out, err = status_of("models", "list")
    assert (code, len(err.splitlines())) == (0, 1)
    assert re.match(r"registrationnet: warning: An own model is left out\. .*bad\.card\.json is not the card of a model", err)
    assert "unigradicon" in out
    assert status_of("models", "show", "direct")[0] == 0
    assert status_of("models", "remove", "bad") == (0, "bad: 0 kB freed\n", "")
    assert list(cache.iterdir()) == []
    code, _, err = status_of("models", "remove", "bad")
    assert code == 2
    assert "no model 'bad'" in err


def test_weights_with_another_checksum_than_asked_are_refused(
    status_of: Status, cache: Path, mirror: Callable[..., Server], published: Path
) -> None:
    right, wrong = hashlib.sha256(published.read_bytes()).hexdigest(), 64 * "a"
    assert re.search(
        r"^checksum +none is published; the first file is taken on faith", status_of("models", "show", "unigradicon")[1], re.M
    )
    assert "checksum" not in status_of("models", "show", "direct")[1]
    importing = ["models", "import", "unigradicon", str(published)]
    refused(
        status_of(*importing, "--sha256", wrong), f"must have the checksum {wrong}, as you asked; .*{published.name} has {right}"
    )
    refused(status_of(*importing, "--sha256", "abc"), "--sha256: 'abc' is not a SHA-256 checksum of 64 hexadecimal digits")
    mirror(whole(published.read_bytes()))
    downloading = ["models", "download", "unigradicon", "--quiet"]
    code, _, err = status_of(*downloading, "--sha256", wrong)
    assert (code, "as you asked" in err) == (1, True)
    assert list(cache.iterdir()) == []
    assert status_of(*importing, "--sha256", right.upper(), "--quiet") == (0, "", "")
    assert json.loads(status_of("models", "show", "unigradicon", "--json")[1])["state"]["sha256"] == right
    assert re.search(rf"^checksum +{right}, as the file had that came first", status_of("models", "show", "unigradicon")[1], re.M)
    refused(status_of(*downloading, "--sha256", wrong), "as you asked")
    assert status_of(*downloading, "--sha256", right) == (0, "", "")


def test_a_bad_file_of_weights_is_named_by_the_users_own_name(status_of: Status, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.trch").write_bytes(b"junk")
    _, _, err = status_of("models", "import", "unigradicon", str(tmp_path / "mine.trch"))
    assert str(tmp_path / "mine.trch") in err
    assert str(cache) not in err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system has no such names")
def test_a_folder_whose_name_is_no_unicode_is_a_folder(place: Place) -> None:
    folder = Path(os.fsdecode(os.fsencode(place.folder) + b"/K\xe4se"))
    folder.mkdir()
    for name in ("fixed.nii.gz", "moving.nii.gz"):
        (place.folder / name).rename(folder / name)
    done = run("register", str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz"), str(folder / "out"), *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (folder / "out").iterdir()} == RESULTS
    assert json.loads((folder / "out" / "report.json").read_text())["inputs"]["fixed"]["file"].endswith("K?se/fixed.nii.gz")


NAMELESS = """
import pwd, sys

def nobody(*_):
    raise KeyError("uid not found")

pwd.getpwuid = pwd.getpwnam = nobody
from RegistrationNetLib.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="user numbers without a name are a POSIX notion")
def test_a_user_without_a_name_and_a_home_registers_and_is_told_where_weights_go(place: Place) -> None:
    env = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS")}

    def nameless(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", NAMELESS, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=README.parent, timeout=120, env=env, check=False)

    done = nameless("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = nameless("models", "download", "unigradicon")
    assert done.returncode == 2
    assert "There is no home folder for the weights of models" in done.stderr


def test_memory_that_runs_out_is_told_in_our_words(place: Place, status_of: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(registration, "solve", greedy)
    code, _, err = status_of("register", place / "fixed.nii.gz", place / "moving.nii.gz", place / "out", *QUICK)
    assert code == 1
    assert "The memory of this machine is not enough for these images. Crop the images" in err
    monkeypatch.setattr(warping_commands, "warp_series", greedy)
    code, _, err = status_of(*warp(place, "moving.nii.gz", "w.nrrd"))
    assert code == 1
    assert err == "registrationnet: Out of memory; close other programs or use smaller images.\n"
