"""Files of weights: those that fit go in bit for bit; every other is refused, unrun, with the reason."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from RegistrationNetLib.errors import OutputError, WeightsError
from RegistrationNetLib.models import checkpoint
from RegistrationNetLib.models.catalogue import Card, card_named
from RegistrationNetLib.models.checkpoint import load_into, save_as_published
from RegistrationNetLib.registration.methods import untrained_network

CARD = replace(card_named("unigradicon"), name="tiny")
ROOT = Path(__file__).resolve().parents[2]


def tiny(_: Card = CARD) -> nn.Module:
    """A network with parameters and the buffers of batch normalization."""
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))


def trained() -> dict[str, Tensor]:
    return {name: torch.rand(value.shape) if value.dim() else torch.tensor(7) for name, value in tiny().state_dict().items()}


def saved(content: object, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


check = partial(checkpoint.check, card=CARD, network_of=tiny)


def assert_holds(network: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


# what is taken


@pytest.mark.parametrize("is_meta", [False, True])
def test_a_file_that_fits_goes_in_bit_for_bit(is_meta: bool, tmp_path: Path) -> None:
    state = trained()
    path = saved(state, tmp_path / "a")
    check(path)
    with torch.device("meta" if is_meta else "cpu"):
        network = tiny()
    load_into(network, CARD, path)
    assert_holds(network, state)
    path.unlink()
    assert_holds(network, state)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_weights_written_in_half_precision_go_in_rounded_and_statistics_as_they_are(tmp_path: Path) -> None:
    network = tiny()
    network.load_state_dict({name: value * 1e5 if "running" in name else value for name, value in trained().items()})
    sizes = {}
    for in_half in (False, True):
        path = tmp_path / f"{in_half}.trch"
        save_as_published(network, CARD, path, in_half=in_half)
        sizes[in_half] = path.stat().st_size
        check(path)
    load_into(again := tiny(), CARD, tmp_path / "True.trch")
    for name, value in network.state_dict().items():
        expected = value.half().float() if name in dict(network.named_parameters()) else value
        assert torch.equal(again.state_dict()[name], expected), name
    assert sizes[True] < sizes[False]
    assert all(one.dtype == torch.float32 for one in network.parameters()), "the network itself stays"


def test_a_weight_that_half_precision_cannot_hold_stays_single(tmp_path: Path) -> None:
    network = tiny()
    with torch.no_grad():
        network[0].weight[0, 0, 0] = 70_000.5
    save_as_published(network, CARD, tmp_path / "a.trch", in_half=True)
    load_into(again := tiny(), CARD, tmp_path / "a.trch")
    for (name, value), other in zip(network.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(other, value if name == "0.weight" else value.half().float()), name


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {prefix + name: value for name, value in state.items()}


TOLERATED: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "with the outer name": prefixed("regis_net."),
    "from several GPUs": prefixed("module."),
    "from several GPUs, with the outer name": prefixed("module.regis_net."),
    "parameters": lambda state: {**state, "0.weight": nn.Parameter(state["0.weight"])},
    "not contiguous": lambda state: {**state, "0.weight": state["0.weight"].transpose(0, 2).contiguous().transpose(0, 2)},
    "with the buffers of old files": lambda state: {
        **state,
        "identity_map": torch.zeros(1, 3, 4, 4, 4, dtype=torch.float64),
        "0.net.identity_map": torch.full((2,), torch.nan),
        "spacing": torch.ones(3),
    },
}


@pytest.mark.parametrize("case", TOLERATED)
def test_what_published_files_may_have_is_tolerated(case: str, tmp_path: Path) -> None:
    state = trained()
    path = saved(TOLERATED[case](state), tmp_path / "a")
    check(path)
    load_into(network := tiny(), CARD, path)
    assert_holds(network, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_single(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in trained().items()}
    load_into(network := tiny(), CARD, saved(state, tmp_path / "a"))
    assert_holds(network, {name: value.float() if value.is_floating_point() else value for name, value in state.items()})


def test_a_file_of_the_old_format_is_read(tmp_path: Path) -> None:
    state = trained()
    path = saved(state, tmp_path / "a", _use_new_zipfile_serialization=False)
    load_into(network := tiny(), CARD, path)
    assert_holds(network, state)


def test_the_prefix_of_the_card_is_taken_off_and_put_back(tmp_path: Path) -> None:
    card = replace(CARD, weights={**(CARD.weights or {}), "state_dict_prefix": "netPsi.netPsi."})
    state = trained()
    path = saved(prefixed("netPsi.netPsi.")(state), tmp_path / "a")
    load_into(network := tiny(), card, path)
    assert_holds(network, state)
    save_as_published(network, card, tmp_path / "b")
    assert list(torch.load(tmp_path / "b", weights_only=True)) == list(torch.load(path, weights_only=True))
    with pytest.raises(WeightsError, match=r"without netPsi\.netPsi\.0\.weight"):
        load_into(network, card, saved(state, tmp_path / "c"))


def test_what_is_saved_is_read_again_and_by_strict_torch(tmp_path: Path) -> None:
    network = tiny()
    network[0].weight.data = network[0].weight.data.transpose(0, 2).contiguous().transpose(0, 2)  # type: ignore[index, union-attr]
    save_as_published(network, CARD, tmp_path / "a")
    load_into(ours := tiny(), CARD, tmp_path / "a")
    assert_holds(ours, network.state_dict())
    content = torch.load(tmp_path / "a", weights_only=True)
    tiny().load_state_dict(content, strict=True)
    assert all(value.is_contiguous() for value in content.values())


def published_state(name: str) -> dict[str, Tensor]:
    pytest.importorskip("itk")
    if name == "icon-knee":
        knees = pytest.importorskip("icon_registration.pretrained_models.OAI_knees")
        return knees.OAI_knees_registration_model(pretrained=False).state_dict()
    with torch.device("meta"):
        return pytest.importorskip("icon_registration.pretrained_models.lung_ct").make_network().regis_net.state_dict()


@pytest.mark.parametrize("name", ["unigradicon", pytest.param("icon-knee", marks=pytest.mark.slow)])
def test_a_file_of_the_reference_fits_and_names_its_tensors_as_we_save_them(name: str, tmp_path: Path) -> None:
    # Every element of a tensor is the same one, so that the file is small.
    state = {
        key: torch.full((), 0.5 if value.is_floating_point() else 3, dtype=value.dtype).expand(value.shape)
        for key, value in published_state(name).items()
        if not key.endswith("identity_map")
    }
    card = card_named(name)
    checkpoint.check(saved(state, tmp_path / "a"), card, untrained_network)
    with torch.device("meta"):
        ours = untrained_network(card)
    prefix = card.weights["state_dict_prefix"]  # type: ignore[index]
    assert [prefix + key for key in ours.state_dict()] == list(state)


# what is refused


class Hostile:
    """Runs a command when it is unpickled in full."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def refused(path: Path, message: str) -> None:
    network = tiny()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for ask in (check, partial(load_into, network, CARD)):
        with pytest.raises(WeightsError, match=message) as caught:
            ask(path)
        assert "\n" not in str(caught.value)
    assert_holds(network, before)


@pytest.mark.parametrize("form", ["archive", "old", "bare pickle", "new pickle", "among tensors"])
def test_a_hostile_file_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    hostile = Hostile(f"touch {tmp_path / 'ran'}")
    path = tmp_path / "a"
    if "pickle" in form:
        path.write_bytes(pickle.dumps(hostile, protocol=2 if form == "bare pickle" else 5))
    else:
        saved(
            {**trained(), "0.weight": hostile} if form == "among tensors" else hostile,
            path,
            _use_new_zipfile_serialization=form != "old",
        )
    asked = r"more than tensors and asks for the program (posix|nt)\.system, which was not run. Get the file again"
    refused(path, "of another format" if form == "new pickle" else asked)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False) if "pickle" not in form else pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists(), "the file is as dangerous as it should be"


def test_a_whole_network_is_refused(tmp_path: Path) -> None:
    refused(saved(tiny(), tmp_path / "a"), "more than tensors and asks for the program torch.nn.modules.container.Sequential")


def archive_of(state: dict[str, Tensor], **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def with_a_bit_flipped(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        at = next(entry for entry in archive.infolist() if entry.filename.endswith("data/0")).header_offset + 128
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def compressed(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


BROKEN: dict[str, tuple[Callable[[bytes, Path], object], str]] = {
    "empty": (lambda _, path: path.write_bytes(b""), "it is empty"),
    "cut off": (lambda content, path: path.write_bytes(content[: len(content) // 2]), "cut off, damaged, or of another format"),
    "a little cut off": (lambda content, path: path.write_bytes(content[:-30]), "cut off, damaged, or of another format"),
    "without its start": (lambda content, path: path.write_bytes(content[200:]), "cut off, damaged"),
    "one bit flipped": (with_a_bit_flipped, "damaged: the checksum of .*data/0 in it is wrong"),
    "compressed": (compressed, "is a compressed archive"),
    "web page": (lambda _, path: path.write_bytes(b"\n<!DOCTYPE html><p>Sign in"), "it is a web page"),
    "text": (lambda _, path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "of another format"),
    "zeros": (lambda _, path: path.write_bytes(bytes(1000)), "of another format"),
    "another archive": (lambda _, path: zipfile.ZipFile(path, "w").writestr("a/readme", "text"), "of another format"),
    "a program": (lambda _, path: torch.jit.save(torch.jit.trace(nn.ReLU(), torch.zeros(1)), path), "is a program"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    make(archive_of(trained()), tmp_path / "a")
    refused(tmp_path / "a", message)


@pytest.mark.parametrize("case", ["cut off"])
def test_a_file_of_the_old_format_that_is_cut_off_is_refused(case: str, tmp_path: Path) -> None:
    content = archive_of(trained(), _use_new_zipfile_serialization=False)
    (tmp_path / "a").write_bytes(content[:-20])
    refused(tmp_path / "a", case)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_told(name: str, tmp_path: Path) -> None:
    refused(tmp_path / name, "Cannot read .*Check the name")


def changed(**changes: Any) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: {**state, **{name.replace("_", "."): value for name, value in changes.items()}}


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a list": (lambda state: list(state.values()), "must hold tensors by name; it holds a list. Save the network's state dict"),
    "a tensor": (lambda state: state["0.weight"], "it holds a Tensor"),
    "nothing": (lambda _: {}, "it holds nothing"),
    "a training state": (
        lambda state: {"state_dict": state, "epoch": 3},
        "under 'state_dict' it holds a dict with '0.weight', '0.bias', '1.weight' and 4 more",
    ),
    "numbers as names": (lambda state: dict(enumerate(state.values())), "under 0 it holds a Tensor"),
    "one missing": (
        lambda state: {name: state[name] for name in state if name != "1.bias"},
        r"came without 1\.bias\. Choose a file for tiny",
    ),
    "one more": (changed(extra=torch.zeros(1)), r"came with extra\. Choose a file for tiny"),
    "other names": (
        prefixed("net."),
        r"without 0\.weight, 0\.bias, 1\.weight and 4 more, and with net\.0\.weight, .* and 4 more",
    ),
    "one twice": (lambda state: {**state, "module.0.bias": state["0.bias"]}, r"each tensor once; 0\.bias comes under two names"),
    "another shape": (
        changed(**{"0_weight": torch.zeros(3, 2, 5)}),
        r"0\.weight must have the shape \[3, 2, 3\], got \[3, 2, 5\]",
    ),
    "NaN": (changed(**{"0_weight": torch.full((3, 2, 3), torch.nan)}), r"0\.weight has values that are not finite"),
    "infinite": (lambda state: {**state, "1.running_var": torch.tensor([1, torch.inf, 1])}, "not finite"),
    "whole numbers": (
        changed(**{"0_weight": torch.zeros(3, 2, 3, dtype=torch.int8)}),
        r"ordinary tensor of torch\.float32, got torch\.int8",
    ),
    "double precision": (changed(**{"0_weight": torch.zeros(3, 2, 3).double()}), r"got torch\.float64"),
    "complex": (changed(**{"0_weight": torch.zeros(3, 2, 3) * 1j}), r"got torch\.complex64"),
    "sparse": (changed(**{"0_weight": torch.zeros(3, 2, 3).to_sparse()}), r"got torch\.float32, torch\.sparse_coo"),
    "without memory": (changed(**{"0_weight": torch.zeros(3, 2, 3, device="meta")}), "got torch.float32, torch.strided, meta"),
    "a count that is no whole number": (
        lambda state: {**state, "1.num_batches_tracked": torch.tensor(7.0)},
        r"num_batches_tracked must be an ordinary tensor of torch\.int64, got torch\.float32",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    make, message = WRONG[case]
    refused(saved(make(trained()), tmp_path / "a"), message)


def small_file_for(name: str, path: Path) -> Path:
    """Zeros with the names and shapes of a real model; the file is small because each tensor is one element, repeated."""
    with torch.device("meta"):
        state = untrained_network(card_named(name)).state_dict()
    return saved({key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}, path)


def test_the_model_that_the_file_fits_is_named(tmp_path: Path) -> None:
    path = small_file_for("icon-knee", tmp_path / "a")
    assert path.stat().st_size < 200_000
    checkpoint.check(path, card_named("icon-knee"), untrained_network)
    with pytest.raises(WeightsError, match=r"does not fit unigradicon: .* It fits icon-knee: choose that model"):
        checkpoint.check(path, card_named("unigradicon"), untrained_network)
    with pytest.raises(WeightsError, match="It fits gradicon-brain, gradicon-knee, gradicon-lung, multigradicon, unigradicon"):
        checkpoint.check(small_file_for("unigradicon", tmp_path / "b"), card_named("icon-knee"), untrained_network)


# what is written


def test_a_disk_that_is_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nat …")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OutputError, match="failed writing file data/0: file write failed. Free some space"):
        save_as_published(tiny(), CARD, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_file_takes_the_memory_of_the_network_and_hardly_more(tmp_path: Path) -> None:
    script = f"""
import resource, torch
from pathlib import Path
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.checkpoint import check, load_into, save_as_published
from RegistrationNetLib.registration.methods import untrained_network
import psutil
card, path = card_named("unigradicon"), Path({str(tmp_path / "a")!r})
with torch.device("meta"):
    network = untrained_network(card)
network.to_empty(device="cpu")
with torch.no_grad():
    [value.fill_(0.5) for value in network.state_dict().values()]
save_as_published(network, card, path)
del network
def own(): return psutil.Process().memory_info().rss - psutil.Process().memory_info().shared
before = own()
check(path, card, untrained_network)
print(own() - before)
with torch.device("meta"):
    network = untrained_network(card)
load_into(network, card, path)
print(own() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    checking, loaded = map(int, done.stdout.split())
    size = int((card_named("unigradicon").weights or {})["bytes"])
    assert checking < 0.1 * size
    assert loaded < 1.2 * size
