"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from RegistrationNetLib.cli.main import main

Status = Callable[..., tuple[int, str, str]]
# Options of a registration that ends soon.
QUICK = ["--align", "centre", "--steps", "3", "--repeats", "0"]


@pytest.fixture
def status_of(capsys: pytest.CaptureFixture[str]) -> Status:
    """Runs a command in this process: exit status, stdout, stderr."""

    def status(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = main([str(one) for one in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        return code, *capsys.readouterr()

    return status
