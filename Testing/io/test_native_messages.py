"""C libraries stay silent inside, and only inside."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from RegistrationNetLib.io.native_messages import native_messages_dropped, native_reason


def test_what_is_written_past_python_is_dropped_inside_only(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before ")
    with native_messages_dropped():
        os.write(2, b"inside ")
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


PRINTS = """
import ctypes, json, os
from RegistrationNetLib.io.native_messages import native_messages_dropped
library = ctypes.CDLL(None)
print("before", end=" ")
library.puts(b"native, before")
with native_messages_dropped():
    library.puts(b"native, inside")
    os.write(1, b"past all buffers")
print(json.dumps({"after": 1}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the C library has another name there")
def test_what_c_prints_inside_does_not_reach_the_output_of_the_program() -> None:
    """Through a pipe, where both C and Python hold back what they print."""
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n") == ["before native, before", '{"after": 1}', ""]


def test_a_process_without_stdout_is_no_obstacle(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with native_messages_dropped():
        os.write(2, b"inside ")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


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


def test_blocks_that_overlap_in_threads_give_stderr_back(capfd: pytest.CaptureFixture[str]) -> None:
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first() -> None:
        with native_messages_dropped():
            first_is_in.set()
            second_is_in.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    first_is_in.wait(10)
    with native_messages_dropped():
        second_is_in.set()
        thread.join()
        os.write(2, b"inside ")
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


def test_many_threads_at_once_leave_stderr_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    def work(_: int) -> None:
        for _ in range(50):
            with native_messages_dropped():
                os.write(2, b"inside ")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Exception thrown in SimpleITK\nITK ERROR: NiftiImageIO(0x5637d5c33a50): no voxels.", "no voxels"),
        ("sitk::ERROR: Unable to determine ImageIO reader", "Unable to determine ImageIO reader"),
        ("", "RuntimeError"),
    ],
)
def test_an_error_of_itk_is_told_without_its_addresses(text: str, reason: str) -> None:
    assert native_reason(RuntimeError(text)) == reason
