"""C libraries stay silent inside, and only inside."""

import os

import pytest

from RegistrationNetLib.io.native_messages import native_messages_dropped


def test_what_is_written_past_python_is_dropped_inside_only(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before ")
    with native_messages_dropped():
        os.write(2, b"inside ")
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


def test_an_error_inside_comes_out_and_stderr_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="told"), native_messages_dropped():
        raise RuntimeError("told")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_a_process_without_stderr_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", refuse)
    with native_messages_dropped():
        reached = True
    assert reached
