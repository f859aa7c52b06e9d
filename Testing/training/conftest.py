"""Fixtures of these tests."""

import socket

import pytest

from .tiny import tiny

__all__ = ["tiny"]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port
