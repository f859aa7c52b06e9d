"""Registrations at the same time agree on memory and cards."""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from RegistrationNetLib.cohort import machine
from RegistrationNetLib.cohort.machine import Claim, fits, gpu_reserved, memory_reserved
from RegistrationNetLib.errors import Cancelled


def claim(memory_mb: float, *, came: int = 0, is_running: bool = True, pid: int | None = None) -> Claim:
    return Claim(os.getpid() if pid is None else pid, psutil.Process().create_time(), memory_mb, came, is_running)


def never() -> None:
    """Nobody gives up."""


def own_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def test_two_that_do_not_fit_together_wait_for_each_other() -> None:
    mine = claim(1000, came=5, is_running=False)
    assert fits(mine, [], free_mb=10), "alone anything may start"
    running = claim(own_mb() + 500)
    assert fits(mine, [running], free_mb=1600)
    assert not fits(mine, [running], free_mb=1400), "the other one will still take 500"
    assert fits(mine, [claim(0)], free_mb=1400), "the other one has taken all that it wants"


def test_a_large_one_that_waits_gets_its_turn() -> None:
    small, large = claim(10, came=7, is_running=False), claim(5000, came=6, is_running=False)
    assert not fits(small, [claim(0), large], free_mb=1000)
    assert not fits(small, [large], free_mb=1000)
    assert fits(large, [small], free_mb=1000)


def waiting(folder: Path, memory_mb: float, started: list[float]) -> threading.Thread:
    def work() -> None:
        with memory_reserved(memory_mb, never, folder):
            started.append(memory_mb)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_memory_is_reserved_until_the_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory_bytes", lambda: 2**30)
    started: list[float] = []
    with memory_reserved(own_mb() + 600, never, tmp_path):
        thread = waiting(tmp_path, 600.0, started)
        while len(list(tmp_path.glob("*.json"))) < 2:
            time.sleep(0.01)
        time.sleep(2 * machine.WAIT_SECONDS)
        assert started == []
    thread.join(timeout=20)
    assert started == [600.0]
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize("left", ["", json.dumps(asdict(claim(1e9, pid=2**22 + 1)))], ids=["nothing", "a claim"])
def test_what_a_killed_process_has_said_does_not_count(left: str, tmp_path: Path) -> None:
    (tmp_path / "1-1.json").write_text(left)
    with memory_reserved(1e6, never, tmp_path):
        assert not (tmp_path / "1-1.json").exists()


def test_a_process_of_the_same_number_is_another_one() -> None:
    assert claim(1).is_alive
    assert not Claim(os.getpid(), 1.0, 1, 0, is_running=True).is_alive
    assert Claim(2**22 + 1, 1.0, 1, 0, is_running=True).still_to_come_mb == 0


def giving_up() -> None:
    raise Cancelled("enough")


def test_who_waits_can_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_memory_bytes", lambda: 0)
    with memory_reserved(1.0, never, tmp_path), pytest.raises(Cancelled), memory_reserved(1.0, giving_up, tmp_path):
        pass
    assert list(tmp_path.glob("*.json")) == []


def test_each_registration_has_a_card_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cards", lambda _: ["cuda:0", "cuda:1"])
    with gpu_reserved("auto", never, tmp_path) as first, gpu_reserved("auto", never, tmp_path) as second:
        assert (first, second) == ("cuda:0", "cuda:1")
        with pytest.raises(Cancelled), gpu_reserved("auto", giving_up, tmp_path):
            pass
    with gpu_reserved("auto", never, tmp_path) as again:
        assert again == "cuda:0"


@pytest.mark.parametrize(("device", "has_cards", "cards"), [
    ("cpu", True, []), ("auto", False, []), ("auto", True, ["cuda:0", "cuda:1"]), ("cuda", True, ["cuda:0", "cuda:1"]), ("cuda:1", True, ["cuda:1"]),
])  # fmt: skip
def test_the_cards_that_may_serve(device: str, has_cards: bool, cards: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: has_cards)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert machine._cards(device) == cards
    if not cards:
        with gpu_reserved(device, never) as chosen:
            assert chosen == device


def test_the_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    names: list[Callable[[], str]] = [lambda: "Jane Doe", nameless]
    for name, folder in zip(names, ("registrationnet-Jane-Doe", "registrationnet-user"), strict=True):
        monkeypatch.setattr("getpass.getuser", name)
        assert machine._shared_folder() == tmp_path / folder
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
