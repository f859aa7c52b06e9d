"""A file over HTTP from a real server, which also misbehaves."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from RegistrationNetLib.errors import Cancelled, DownloadError, InputError
from RegistrationNetLib.models import download
from RegistrationNetLib.models.download import Patience, transfer

from .. import loopback
from ..loopback import Answer, Server

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HALF = len(CONTENT) // 2
QUICK = Patience(timeout_seconds=20, retries=2, pause_seconds=0.0)

Serve = Callable[..., Server]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield lambda *answers, **options: stack.enter_context(Server(list(answers), **options).running())


def fetched(url: str, path: Path, *, patience: Patience = QUICK, limit_bytes: int = 2**21) -> bytes:
    fractions: list[float] = []
    transfer(url, path, limit_bytes=limit_bytes, report=fractions.append, patience=patience)
    assert fractions[-1] in (0.0, 1.0)
    assert all(0 <= fraction <= 1 for fraction in fractions)
    return path.read_bytes()


def test_a_file_comes_as_it_is_with_its_progress(serve: Serve, tmp_path: Path) -> None:
    server = serve(loopback.whole(CONTENT))
    fractions: list[float] = []
    transfer(f"{server.url}/a", tmp_path / "a", limit_bytes=2**21, report=fractions.append)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert fractions == sorted(fractions)
    assert len(fractions) >= 4
    assert fractions[-1] == 1.0
    assert [address for address, _ in server.seen] == ["/a"]


GOOD: dict[str, list[Answer]] = {
    "length unknown": [loopback.without_length(CONTENT)],
    "cut off once, without a way to go on": [loopback.with_length(CONTENT[:HALF], len(CONTENT)), loopback.whole(CONTENT)],
    "cut off once, then the rest": [loopback.with_length(CONTENT[:HALF], len(CONTENT)), loopback.the_rest(CONTENT)],
    "cut off twice": [loopback.with_length(CONTENT[:HALF], len(CONTENT))] * 2 + [loopback.the_rest(CONTENT)],
    "changed after it was cut off": [loopback.with_length(CONTENT[HALF:], len(CONTENT)), loopback.the_rest(CONTENT, tag='"two"')],
    "length that is no number": [loopback.whole(CONTENT, **{"Content-Length": "many"})],
    "busy once": [loopback.status(503), loopback.whole(CONTENT)],
}


@pytest.mark.parametrize("case", GOOD)
def test_a_break_is_mended(case: str, serve: Serve, tmp_path: Path) -> None:
    assert fetched(serve(*GOOD[case]).url, tmp_path / "a") == CONTENT


def test_after_a_break_only_the_rest_is_asked_for(serve: Serve, tmp_path: Path) -> None:
    server = serve(*GOOD["cut off once, then the rest"])
    assert fetched(server.url, tmp_path / "a") == CONTENT
    assert "Range" not in server.seen[0][1]
    assert server.seen[1][1]["Range"] == f"bytes={HALF}-"
    assert server.seen[1][1]["If-Range"] == '"one"'


def test_a_silent_server_is_asked_again(serve: Serve, tmp_path: Path) -> None:
    leave = threading.Event()
    server = serve(loopback.stalled(CONTENT, leave), loopback.whole(CONTENT))
    assert fetched(server.url, tmp_path / "a", patience=Patience(0.3, 9, 0.0)) == CONTENT
    leave.set()
    assert len(server.seen) >= 2


def test_a_redirection_is_followed(serve: Serve, tmp_path: Path) -> None:
    there = serve(loopback.whole(CONTENT))
    assert fetched(serve(loopback.redirect(f"{there.url}/b")).url, tmp_path / "a") == CONTENT


BAD: dict[str, tuple[Answer, str, int]] = {
    "always cut off": (loopback.with_length(CONTENT[:HALF], len(CONTENT)), r"connection broke.*attempt 3", 3),
    "always busy": (loopback.status(500), r"answered 500 .*attempt 3", 3),
    "not there": (loopback.status(404), "answered 404 Not Found", 1),
    "not allowed": (loopback.status(403), "answered 403", 1),
    "too large by its length": (loopback.with_length(CONTENT, 2**22), f"more than {2**21} bytes", 1),
    "too large without a length": (loopback.without_length(CONTENT * 4), f"more than {2**21} bytes", 1),
    "an address of another kind": (loopback.redirect("ftp://127.0.0.1/a"), "No connection adapters", 1),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_mended_is_told(case: str, serve: Serve, tmp_path: Path) -> None:
    answer, message, attempts = BAD[case]
    server = serve(answer)
    with pytest.raises(DownloadError, match=message):
        fetched(f"{server.url}/a", tmp_path / "a")
    assert len(server.seen) == attempts


def test_a_server_that_is_always_silent_is_given_up(serve: Serve, tmp_path: Path) -> None:
    leave = threading.Event()
    server = serve(loopback.stalled(CONTENT, leave))
    with pytest.raises(DownloadError, match=r"timed out.*attempt 2"):
        fetched(server.url, tmp_path / "a", patience=Patience(0.2, 1, 0.0))
    leave.set()


def test_a_server_that_goes_on_elsewhere_is_refused(serve: Serve, tmp_path: Path) -> None:
    server = serve(loopback.with_length(CONTENT[:HALF], len(CONTENT)), loopback.the_rest(CONTENT, shift=7))
    with pytest.raises(DownloadError, match="went on at another place"):
        fetched(server.url, tmp_path / "a")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/a", "refused.*attempt 3"),
        ("weights.example/a", "No scheme supplied"),
        ("http:///a", "No host supplied"),
    ],
)
def test_an_address_without_a_server_is_told_without_objects(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetched(url, tmp_path / "a")
    assert "Pool(" not in str(caught.value)
    assert "<" not in str(caught.value)


def test_cancelling_in_the_middle_ends_it(serve: Serve, tmp_path: Path) -> None:
    def cancel(fraction: float) -> None:
        if fraction > 0.4:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        transfer(serve(loopback.whole(CONTENT)).url, tmp_path / "a", limit_bytes=2**21, report=cancel)
    assert (tmp_path / "a").stat().st_size < len(CONTENT)


def test_cancelling_is_heard_in_the_pause_after_a_break(serve: Serve, tmp_path: Path) -> None:
    def cancel(_: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        transfer(serve(loopback.status(503)).url, tmp_path / "a", limit_bytes=2**21, report=cancel, patience=Patience(1, 1, 60))


def test_the_pause_is_kept(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(download, "time", SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append))
    assert fetched(serve(*GOOD["busy once"]).url, tmp_path / "a", patience=Patience(20, 1, 0.4)) == CONTENT
    assert sum(slept) == pytest.approx(0.4)


def test_the_proxy_of_the_environment_is_used(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(loopback.whole(CONTENT))
    monkeypatch.setenv("http_proxy", proxy.url)
    assert fetched("http://weights.invalid/a", tmp_path / "a") == CONTENT
    assert proxy.seen[0][0] == "http://weights.invalid/a"


def test_a_proxy_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="proxy does not work"):
        fetched("http://weights.invalid/a", tmp_path / "a")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a server that nobody vouches for but itself; key and certificate in one file."""
    file = tmp_path_factory.mktemp("certificate") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    try:
        subprocess.run([*command.split(), "-keyout", f"{file}.key", "-out", str(file)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here")
    file.write_text(Path(f"{file}.key").read_text() + file.read_text())
    return file


def test_a_certificate_that_nobody_vouches_for_is_refused(serve: Serve, certificate: Path, tmp_path: Path) -> None:
    server = serve(loopback.whole(CONTENT), certificate=certificate)
    with pytest.raises(DownloadError, match="no secure connection.*certificate"):
        fetched(server.url, tmp_path / "a")


def test_a_certificate_that_the_user_trusts_is_taken(
    serve: Serve, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    server = serve(loopback.whole(CONTENT), certificate=certificate)
    assert fetched(server.url, tmp_path / "a") == CONTENT


def test_https_does_not_lead_to_http(serve: Serve, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    plain = serve(loopback.whole(CONTENT))
    with pytest.raises(DownloadError, match="not encrypted"):
        fetched(serve(loopback.redirect(plain.url), certificate=certificate).url, tmp_path / "a")


@pytest.mark.parametrize("options", [{"timeout_seconds": 0.0}, {"retries": -1}, {"pause_seconds": -1.0}])
def test_patience_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Patience is a timeout above 0"):
        Patience(**options)  # type: ignore[arg-type]


def test_a_cut_that_the_library_does_not_notice_is_noticed_here(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    read = requests.Response.iter_content
    monkeypatch.setattr(requests.Response, "iter_content", lambda response, size: list(read(response, size))[:-1])
    with pytest.raises(DownloadError, match=rf"broke after \d+ of {len(CONTENT)} bytes"):
        fetched(serve(loopback.whole(CONTENT)).url, tmp_path / "a")
