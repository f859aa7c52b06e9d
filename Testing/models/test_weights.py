"""Weights that come, stay as they were, and go; from a real server, and from files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import platformdirs
import platformdirs.windows
import pytest
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows

from RegistrationNetLib.errors import Cancelled, DownloadError, InputError, OutputError, ResourceError, WeightsError
from RegistrationNetLib.models import weights
from RegistrationNetLib.models.catalogue import Card, cache_folder, card_named, models_folder
from RegistrationNetLib.models.download import Patience
from RegistrationNetLib.models.weights import (
    download,
    import_file,
    megabytes,
    remove,
    sha256,
    total_size,
    weights_file,
    weights_state,
    weights_url,
)
from RegistrationNetLib.progress import Progress

from .. import loopback
from ..loopback import Server

CONTENT = b"weights" * 100_000
CHANGED = b"altered" * 100_000
QUICK = Patience(timeout_seconds=20, retries=1, pause_seconds=0.0)
ROOT = Path(__file__).resolve().parents[2]

Serve = Callable[..., Server]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REGISTRATIONNET_WEIGHTS_URL", raising=False)
    return tmp_path / "cache" / "models"


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda *answers: stack.enter_context(Server(list(answers)).running())


def card_at(url: str, **more: Any) -> Card:
    published = dict(card_named("unigradicon").weights or {})
    return replace(card_named("unigradicon"), weights={**published, "url": url, "bytes": len(CONTENT), **more})


def check(path: Path) -> None:
    if path.read_bytes()[:7] not in (b"weights", b"altered"):
        raise WeightsError(f"{path.name} holds no weights")


fetch = partial(download, check=check, patience=QUICK)


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


# where they lie


SYSTEMS: dict[str, tuple[type[platformdirs.PlatformDirs], dict[str, str]]] = {
    "linux": (Unix, {}),
    "linux, chosen": (Unix, {"XDG_CACHE_HOME": "/scratch/cache"}),
    "linux, chosen wrongly": (Unix, {"XDG_CACHE_HOME": "scratch/cache"}),
    "darwin": (MacOS, {}),
    "win32": (Windows, {"LOCALAPPDATA": "/users/me/local"}),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_cache_is_where_the_system_has_its_users_caches(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    custom, environment = SYSTEMS[system]
    for name in ("REGISTRATIONNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platformdirs.windows, "get_win_folder", lambda _: environment.get("LOCALAPPDATA"))
    monkeypatch.setattr(sys, "platform", system.split(",")[0])
    assert cache_folder() == custom("registrationnet").user_cache_path


def test_the_cache_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    assert models_folder().parent == cache_folder()


def test_a_mirror_takes_the_place_of_the_address_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = card_named("unigradicon")
    assert weights_url(card) == card.weights["url"]  # type: ignore[index]
    monkeypatch.setenv("REGISTRATIONNET_WEIGHTS_URL", "https://mirror.example/weights/")
    assert weights_url(card) == "https://mirror.example/weights/unigradicon.trch"


def test_looking_creates_nothing(cache: Path) -> None:
    assert weights_state(card_named("unigradicon")).kind == "missing"
    assert total_size() == 0
    assert not cache.parent.exists()


def test_a_state_reads_well(serve: Serve) -> None:
    assert str(weights_state(card_named("direct"))) == "none needed"
    assert str(weights_state(card_named("unigradicon"))) == "missing, about 283 MB"
    fetch(card_at(serve(loopback.whole(CONTENT)).url))
    assert str(weights_state(card_named("unigradicon"))) == "ready, 700 kB"
    assert megabytes(999) == "1 kB"


def test_a_card_without_weights_is_told_so() -> None:
    direct = card_named("direct")
    for ask in (weights_file, fetch, remove, weights_url, lambda card: import_file(card, Path("a"), check)):
        with pytest.raises(InputError, match="direct needs no weights"):
            ask(direct)


def test_missing_weights_say_what_to_do_with_and_without_a_network() -> None:
    with pytest.raises(
        WeightsError, match=r"models download unigradicon.*https://github.com/\S+trch on another .* models import uni"
    ):
        weights_file(card_named("unigradicon"))


# download


def test_a_download_is_there_ever_after(serve: Serve, cache: Path) -> None:
    server = serve(loopback.whole(CONTENT))
    card = card_at(server.url)
    path = fetch(card)
    assert path == cache / "unigradicon.trch" == weights_file(card)
    assert path.read_bytes() == CONTENT
    assert json.loads((cache / "unigradicon.trch.json").read_text()) == {
        "sha256": sha256(path),
        "bytes": len(CONTENT),
        "source": server.url,
    }
    assert left_in(cache) == {"unigradicon.trch", "unigradicon.trch.json"}
    assert fetch(card) == path
    assert len(server.seen) == 1, "what is there is not fetched again"
    assert total_size() > len(CONTENT)


def test_progress_names_its_stages_and_never_goes_back(serve: Serve) -> None:
    seen: list[Progress] = []
    fetch(card_at(serve(loopback.whole(CONTENT)).url), progress=seen.append)
    assert list(dict.fromkeys(one.stage for one in seen)) == ["download", "check"]
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(0.95)


REFUSED: dict[str, tuple[loopback.Answer, str]] = {
    "not there": (loopback.status(404), r"answered 404 .* on another machine.*models import unigradicon FILE"),
    "busy": (loopback.status(500), "answered 500 .*models import unigradicon FILE"),
    "always cut off": (loopback.with_length(CONTENT[:9], len(CONTENT)), "connection broke"),
    "a web page": (loopback.whole(b"<!DOCTYPE html><title>Sign in</title>"), "sent cannot be used.*holds no weights"),
    "too large": (loopback.without_length(CONTENT * 5), "more than 2800000 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_download_that_fails_leaves_nothing(case: str, serve: Serve, cache: Path) -> None:
    answer, message = REFUSED[case]
    card = card_at(serve(answer).url)
    with pytest.raises(DownloadError, match=message):
        fetch(card)
    assert left_in(cache) == set()
    assert weights_state(card).kind == "missing"


def test_cancelling_in_the_middle_leaves_nothing(serve: Serve, cache: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.fraction > 0.4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fetch(card_at(serve(loopback.whole(CONTENT)).url), progress=cancel)
    assert left_in(cache) == set()


def test_a_cancelled_download_goes_on_where_it_was(serve: Serve, cache: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.fraction > 0.4:
            raise Cancelled("enough")

    server = serve(loopback.the_rest(CONTENT))
    card = card_at(server.url)
    with pytest.raises(Cancelled):
        fetch(card, progress=cancel)
    assert weights_state(card).kind == "missing"
    assert fetch(card).read_bytes() == CONTENT
    assert "Range" not in server.seen[0][1]
    assert int(server.seen[1][1]["Range"].removeprefix("bytes=").removesuffix("-")) > 0
    assert left_in(cache) == {fetch(card).name, f"{fetch(card).name}.json"}


@pytest.mark.usefixtures("cache")
def test_a_part_of_a_content_that_has_changed_is_dropped(serve: Serve) -> None:
    def cancel(progress: Progress) -> None:
        if progress.fraction > 0.4:
            raise Cancelled("enough")

    server = serve(loopback.the_rest(CHANGED, tag='"old"'), loopback.the_rest(CONTENT, tag='"new"'))
    card = card_at(server.url)
    with pytest.raises(Cancelled):
        fetch(card, progress=cancel)
    assert fetch(card).read_bytes() == CONTENT


def test_cancelling_at_the_check_leaves_nothing(serve: Serve, cache: Path) -> None:
    def cancel(progress: Progress) -> None:
        if progress.stage == "check":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fetch(card_at(serve(loopback.whole(CONTENT)).url), progress=cancel)
    assert left_in(cache) == set()


@pytest.mark.parametrize("damage", [b"", CHANGED, CONTENT[:-1]])
def test_a_file_that_changed_in_the_cache_is_told_and_mended(damage: bytes, serve: Serve, cache: Path) -> None:
    server = serve(loopback.whole(CONTENT))
    card = card_at(server.url)
    fetch(card).write_bytes(damage)
    assert weights_state(card).kind == ("damaged" if len(damage) != len(CONTENT) else "ready"), "at a glance by size alone"
    with pytest.raises(
        WeightsError, match="is not what was downloaded or imported for unigradicon; it is not used. Run .*download"
    ):
        weights_file(card)
    assert fetch(card).read_bytes() == CONTENT
    assert weights_file(card) == cache / "unigradicon.trch"


@pytest.mark.parametrize("pin", [None, "", "[]", "{}", "not json"])
def test_a_file_without_its_checksum_is_not_used(pin: str | None, serve: Serve, cache: Path) -> None:
    card = card_at(serve(loopback.whole(CONTENT)).url)
    fetch(card)
    beside = cache / "unigradicon.trch.json"
    beside.unlink() if pin is None else beside.write_text(pin)
    assert weights_state(card).kind == "damaged"
    with pytest.raises(WeightsError, match="not what was downloaded"):
        weights_file(card)


def test_what_the_server_changed_after_the_first_time_is_refused(serve: Serve, cache: Path) -> None:
    card = card_at(serve(loopback.whole(CONTENT), loopback.whole(CHANGED)).url)
    fetch(card).unlink()
    with pytest.raises(DownloadError, match=r"as when they first came here.*`registrationnet models remove unigradicon` first"):
        fetch(card)
    assert left_in(cache) == {"unigradicon.trch.json"}
    remove(card)
    assert fetch(card).read_bytes() == CHANGED


def test_a_published_checksum_is_asked_for_from_the_first_time(serve: Serve, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "right").write_bytes(CONTENT)
    card = card_at(serve(loopback.whole(CHANGED), loopback.whole(CONTENT)).url, sha256=sha256(tmp_path / "right"))
    with pytest.raises(DownloadError, match="as published"):
        fetch(card)
    assert left_in(cache) == set()
    assert fetch(card) == weights_file(card)


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(loopback.whole(CONTENT))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match=r"need about 700 kB; .* has 1 kB free.*REGISTRATIONNET_CACHE"):
        fetch(card_at(server.url))
    assert server.seen == []


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is a POSIX notion")
def test_a_disk_that_is_full_in_the_middle_leaves_nothing(serve: Serve, cache: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"Cannot write .*models: File too large. Free about 700 kB"):
            fetch(card_at(serve(loopback.whole(CONTENT)).url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left_in(cache) == set()


def test_a_cache_that_cannot_be_written_is_told(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="Cannot write .*or name another folder in REGISTRATIONNET_CACHE"):
        fetch(card_at(serve(loopback.whole(CONTENT)).url))


def test_a_read_only_cache_serves_what_it_holds(serve: Serve, cache: Path) -> None:
    card = card_at(serve(loopback.whole(CONTENT)).url)
    fetch(card)
    cache.chmod(0o555)
    try:
        assert weights_file(card) == fetch(card)
        if hasattr(os, "geteuid") and os.geteuid():  # root writes everywhere
            (cache / "unigradicon.trch").write_bytes(b"")
            with pytest.raises(OutputError, match="Cannot write"):
                fetch(card)
            with pytest.raises(OutputError, match="Cannot remove"):
                remove(card)
    finally:
        cache.chmod(0o755)


def test_two_processes_at_once_do_not_disturb_each_other(serve: Serve, cache: Path) -> None:
    both, answer = threading.Barrier(2), loopback.whole(CONTENT)

    def together(handler: Any) -> None:
        both.wait(30)
        answer(handler)

    server = serve(together)
    script = f"""
from dataclasses import replace
from RegistrationNetLib.models.catalogue import card_named
from RegistrationNetLib.models.weights import download, weights_file
card = card_named("unigradicon")
card = replace(card, weights={{**card.weights, "url": "{server.url}", "bytes": {len(CONTENT)}}})
download(card, lambda path: None)
assert weights_file(card).stat().st_size == {len(CONTENT)}
"""
    two = [subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) for _ in range(2)]
    assert [one.wait(60) for one in two] == [0, 0]
    assert len(server.seen) == 2
    assert left_in(cache) == {"unigradicon.trch", "unigradicon.trch.json"}


def test_what_a_killed_process_left_is_swept_when_it_is_old(serve: Serve, cache: Path) -> None:
    for name in ("old", "young"):
        (cache / f".arriving-{name}").mkdir(parents=True)
    os.utime(cache / ".arriving-old", (time.time() - 2 * weights.LEFTOVER_SECONDS,) * 2)
    fetch(card_at(serve(loopback.whole(CONTENT)).url))
    assert left_in(cache) == {".arriving-young", "unigradicon.trch", "unigradicon.trch.json"}


# import and removal


def test_an_imported_file_is_copied_and_pinned(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "brought.trch").write_bytes(CONTENT)
    card = card_at("https://example.org")
    assert import_file(card, tmp_path / "brought.trch", check) == weights_file(card)
    assert json.loads((cache / "unigradicon.trch.json").read_text())["source"] == "brought.trch"
    assert (tmp_path / "brought.trch").read_bytes() == CONTENT
    assert left_in(cache) == {"unigradicon.trch", "unigradicon.trch.json"}
    (cache / "unigradicon.trch.json").unlink()
    assert import_file(card, cache / "unigradicon.trch", check) == weights_file(card), "a file put there by hand is taken on"


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_file_that_cannot_be_read_is_not_imported(name: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match="Cannot read .*Check the name"):
        import_file(card_at("https://example.org"), tmp_path / name, check)
    assert not cache.exists()


def test_a_file_that_fails_the_check_is_not_imported(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(WeightsError, match="holds no weights"):
        import_file(card_at("https://example.org"), tmp_path / "junk", check)
    assert left_in(cache) == set()


def test_one_name_has_one_content_until_it_is_removed(tmp_path: Path) -> None:
    card = card_at("https://example.org")
    for name, content in (("first", CONTENT), ("second", CHANGED)):
        (tmp_path / name).write_bytes(content)
    import_file(card, tmp_path / "first", check)
    with pytest.raises(WeightsError, match=r"as when they first came here.*models remove unigradicon"):
        import_file(card, tmp_path / "second", check)
    assert weights_file(card).read_bytes() == CONTENT
    assert remove(card) == len(CONTENT)
    assert import_file(card, tmp_path / "second", check).read_bytes() == CHANGED


def test_a_full_disk_at_import_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first").write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ResourceError, match="free"):
        import_file(card_at("https://example.org"), tmp_path / "first", check)


def test_removal_frees_everything(serve: Serve) -> None:
    card = card_at(serve(loopback.whole(CONTENT)).url)
    fetch(card)
    assert remove(card) == len(CONTENT)
    assert total_size() == 0
    assert weights_state(card).kind == "missing"
    assert remove(card) == 0


def test_what_cannot_be_removed_is_told(cache: Path) -> None:
    (cache / "unigradicon.trch").mkdir(parents=True)
    with pytest.raises(OutputError, match="Cannot remove"):
        remove(card_at("https://example.org"))


def test_a_model_without_published_weights_asks_for_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRATIONNET_CACHE", str(tmp_path))
    monkeypatch.delenv("REGISTRATIONNET_WEIGHTS_URL", raising=False)
    card = card_named("constricon")
    with pytest.raises(WeightsError, match="None are published for it: run `registrationnet models import constricon FILE`"):
        weights_file(card)
    with pytest.raises(WeightsError, match="nothing to download for constricon"):
        download(card, lambda _: None)
