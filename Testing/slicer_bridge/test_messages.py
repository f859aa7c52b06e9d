"""What client and worker say to each other."""

import pytest

from RegistrationNetLib import errors
from RegistrationNetLib.slicer_bridge.messages import checked_request, decoded, described_error, encoded, error_from

FAMILY = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.RegistrationNetError)]


def test_a_message_is_one_line_and_comes_back() -> None:
    message = {"id": 3, "do": "register", "text": "line\nline – ü"}
    assert encoded(message).count(b"\n") == 1
    assert decoded(encoded(message)) == message


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_comes_back_as_its_own_class(kind: type[errors.RegistrationNetError]) -> None:
    back = error_from(described_error(kind("what, rule, what came, what to do")))
    assert type(back) is kind
    assert str(back) == "what, rule, what came, what to do"


def test_a_failure_inside_is_told_as_one() -> None:
    back = error_from(described_error(IndexError("7")))
    assert type(back) is errors.WorkerError
    assert str(back) == "The worker failed inside: IndexError: 7"


def test_lack_of_memory_is_a_lack_of_resources() -> None:
    assert type(error_from(described_error(MemoryError()))) is errors.ResourceError


def test_an_error_of_a_kind_unknown_here_is_still_an_error() -> None:
    assert type(error_from({"kind": "Newer", "message": "x"})) is errors.WorkerError


@pytest.mark.parametrize(
    ("line", "message"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[" * 100_000, "is not JSON"), (b"[1]", "is not a JSON object")],
    ids=["cut", "no text", "too deep", "a list"],
)
def test_what_is_no_message_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(errors.InputError, match=message):
        decoded(line)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"do": "devices"}, "needs an id, a whole number; this one has None"),
        ({"id": "1", "do": "devices"}, "needs an id"),
        ({"id": 1}, "no request None; the requests are register, devices, models, download, import, cancel, quit"),
        ({"id": 1, "do": "dance"}, "no request 'dance'"),
    ],
)
def test_a_request_that_the_worker_does_not_know_is_refused(request_: dict[str, object], message: str) -> None:
    with pytest.raises(errors.InputError, match=message):
        checked_request(request_)
