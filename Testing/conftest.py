"""What every test shares: a fixed seed, no network, no screen."""

import os
import random
import signal
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from RegistrationNetLib.registration.methods import METHODS

os.environ.setdefault("MPLBACKEND", "Agg")

# The default run gives the same verdict every time and is short.
settings.register_profile("default", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("default")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Ctrl-C works as on a terminal, also where the tests run in the background, which shells start deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test must not depend on which ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def forgotten(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the functions of a file keep for its tests is let go with the file: a process runs many."""
    yield
    for kept in vars(request.module).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other after every small piece of work are slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registration that does not say how often is not repeated: for tests that do not ask how far it can be trusted."""
    for method in METHODS.values():
        monkeypatch.setattr(type(method), "repeats", 0)


@pytest.fixture(autouse=True)
def offline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection leaves this machine in a test that is not marked `network`."""
    if "network" not in request.keywords:
        connect = socket.socket.connect

        def refuse(one: socket.socket, address: Any) -> None:
            if not (one.family == socket.AF_INET and address[0] == "127.0.0.1"):
                raise AssertionError(f"a test without the mark `network` connects to {address}")
            connect(one, address)

        monkeypatch.setattr(socket.socket, "connect", refuse)
