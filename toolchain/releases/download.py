"""Downloading one file: interrupted at any moment it goes on where it was, and it appears only whole and checked."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain, repeat
from pathlib import Path
from typing import BinaryIO

from toolchain.checksum import sha256_of
from toolchain.errors import ToolchainError
from toolchain.exclusive import exclusive
from toolchain.progress import Part

_PIECE = 1 << 18
_LONGEST_TEXT = 1 << 20
_SILENCE_SECONDS = 20.0
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)


# Rate limits end within minutes; a server that asks for more is an error that the user must see.
_LONGEST_WAIT = 300.0


class _CutError(Exception):
    """The connection failed, or broke; it may work the next time."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait
        """The seconds that the server asks to wait (Retry-After); None if it does not ask."""


class DownloadError(ToolchainError):
    """A file that cannot be had.

    Attributes:
        why: what is wrong; the message goes on with what to do where the file is for a lab.
    """

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(f"{why} {advice}")
        self.why = why


class ChecksumError(ToolchainError):
    """What came is another file than the one that was asked for."""


def download(url: str, destination: Path, *, sha256: str | None, part: Part, timeout: float = 60.0) -> str:
    """Have `url` at `destination`.

    What has come is kept in `<destination>.partial` and gone on with by the next attempt or the next run, if the
    server still has the same file (ETag or Last-Modified). Two processes may ask for the same file at once: one
    waits, and finds it there.

    Args:
        url: http or https; redirects are followed.
        destination: the file to make; one that is there already and has the right sum is left alone.
        sha256: what the file must have; None: what upstream publishes as `<url>.sha256`.
        part: shows the progress.
        timeout: seconds without a single new byte, over all attempts, before giving up.

    Returns:
        The file's sha256.

    Raises:
        ChecksumError: the file has a wrong checksum.
        DownloadError: no such file, or a server that cannot be reached.
        ToolchainError: the server's certificate is not trusted, or the file cannot be written.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, destination, part, timeout)
    with exclusive(destination.with_name(f".{destination.name}.lock"), what=f"downloading {url}", part=part):
        expected = sha256 or published(url, part=part, timeout=timeout)
        if destination.exists() and sha256_of(destination) == expected:
            return expected
        resumed = transfer.fetch()
        actual = sha256_of(transfer.partial)
        if actual != expected and resumed:
            # The part that was there may have been spoiled, e.g. by a power cut: give it one fresh chance.
            transfer.discard()
            transfer.fetch()
            actual = sha256_of(transfer.partial)
        if actual != expected:
            transfer.discard()
            raise ChecksumError(_wrong(url, expected, actual, published=sha256 is None))
        transfer.keep()
    return expected


def first_download(url: str, destination: Path, *, part: Part, timeout: float = 60.0) -> str:
    """Have a file of which no checksum is known at `destination`; the caller records the checksum that is returned.

    What an interrupted run has left is not used: no checksum would show that it is spoiled. Arguments and errors are
    those of `download`.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    transfer = _Transfer(url, destination, part, timeout)
    with exclusive(destination.with_name(f".{destination.name}.lock"), what=f"downloading {url}", part=part):
        transfer.discard()
        transfer.fetch()
        sha256 = sha256_of(transfer.partial)
        transfer.keep()
    return sha256


class _Transfer:
    """One file on its way, with what is needed to go on after an interruption."""

    def __init__(self, url: str, destination: Path, part: Part, timeout: float) -> None:
        self._url = url
        self._destination = destination
        self._part = part
        self._timeout = timeout
        self.partial = destination.with_name(f"{destination.name}.partial")
        self._validator = destination.with_name(f"{destination.name}.validator")

    def fetch(self) -> bool:
        """Get all that is missing; tell whether something was there already."""
        resumed = self._have() > 0
        self._part.say("downloading")
        _with_retries(self._url, self._attempt, self._have, self._timeout, self._part)
        return resumed

    def discard(self) -> None:
        """Forget what has come."""
        self.partial.unlink(missing_ok=True)
        self._validator.unlink(missing_ok=True)

    def keep(self) -> None:
        """Put the whole file into its place."""
        self.partial.replace(self._destination)
        self._validator.unlink(missing_ok=True)

    def _have(self) -> int:
        # Without a validator it is unknown whether the server still has the same file.
        if not self._validator.exists() or not self.partial.exists():
            return 0
        return self.partial.stat().st_size

    def _attempt(self) -> None:
        have = self._have()
        request = urllib.request.Request(self._url)
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", self._validator.read_text())
        try:
            with _answer(request) as response:
                self._receive(response, have if response.status == 206 else 0)
        except urllib.error.HTTPError as error:
            if error.code != 416:
                raise
            # Nothing lies beyond what is here: it is all there, or of another file; the checksum will tell.
            if have != _length_beyond(error):
                self.discard()
                raise _CutError("the server has another file now") from error

    def _receive(self, response: http.client.HTTPResponse, have: int) -> None:
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if not have:
            self.discard()
            if validator := _validator_of(response):
                self._validator.write_text(validator)
        with self.partial.open("ab" if have else "wb") as file:
            while piece := response.read(_PIECE):
                _write(file, piece)
                have += len(piece)
                self._part.advance(have, total)
        if total is not None and have < total:
            raise _CutError(f"the connection was cut after {have} of {total} bytes")


def _write(file: BinaryIO, piece: bytes) -> None:
    try:
        file.write(piece)
        file.flush()
    except OSError as error:
        raise ToolchainError(
            f"{file.name} cannot be written: {error.strerror}. Free disk space, and run the command again."
        ) from error


def text(url: str, *, part: Part, timeout: float = 60.0) -> str:
    """A small text file's content, e.g. a list of checksums. Arguments and errors are those of `download`."""
    received = ""

    def attempt() -> None:
        nonlocal received
        with _answer(urllib.request.Request(url)) as response:
            received = response.read(_LONGEST_TEXT).decode(errors="replace")

    part.say(f"reading {url.rpartition('/')[2]}")
    _with_retries(url, attempt, lambda: 0, timeout, part)
    return received


def published(url: str, *, part: Part, timeout: float = 60.0) -> str:
    """The sha256 that upstream publishes as `<url>.sha256`. Arguments and errors are those of `download`."""
    said = text(f"{url}.sha256", part=part, timeout=timeout).partition(" ")[0].strip().lower()
    if len(said) != 64 or set(said) - set("0123456789abcdef"):
        raise DownloadError(f"{url}.sha256 holds no sha256.", "Try again; or set TOOLCHAIN=source to build.")
    return said


@contextmanager
def _answer(request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE_SECONDS) as response:
            yield response
    except urllib.error.HTTPError as error:
        if is_rate_limit(error) or error.code in (408, 425) or error.code >= 500:
            raise _CutError(f"the server said {error.code} {error.reason}", retry_after(error)) from error
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ToolchainError(untrusted(request.full_url, reason)) from error
        raise _CutError(str(reason) or type(reason).__name__) from error


def _with_retries(url: str, attempt: Callable[[], None], have: Callable[[], int], timeout: float, part: Part) -> None:
    last_progress, came, waited = time.monotonic(), have(), 0.0
    for pause in chain(_PAUSES, repeat(_PAUSES[-1])):
        try:
            attempt()
            return
        except urllib.error.HTTPError as error:
            raise _refused(url, error) from error
        except _CutError as cut:
            if have() > came:
                last_progress, came, waited = time.monotonic(), have(), 0.0
            if cut.wait is not None:
                waited += max(cut.wait, pause)
                if waited > _LONGEST_WAIT:
                    raise DownloadError(
                        f"{url} cannot be downloaded: {cut}, and asks to wait {cut.wait:.0f} s.",
                        "Run the same again later: what has come is kept. Or set TOOLCHAIN=source to build instead.",
                    ) from cut
                _wait(part, max(cut.wait, pause), f"{cut}; trying again in {max(cut.wait, pause):.0f} s, as it asks")
                # The time that the server asked for is not its silence.
                last_progress += max(cut.wait, pause)
                continue
            if time.monotonic() - last_progress + pause > timeout:
                raise DownloadError(
                    f"{url} cannot be downloaded: {cut}; no data were received for {timeout:.0f} s.",
                    "What has come is kept: run the same again when the network is back, or set TOOLCHAIN=source to "
                    "build instead.",
                ) from cut
            part.say(f"{cut}; trying again")
            time.sleep(pause)


def _wait(part: Part, seconds: float, why: str) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        # In each round: here the part notices that set-up was interrupted.
        part.say(why)
        time.sleep(min(left, 1.0))


def is_rate_limit(error: urllib.error.HTTPError) -> bool:
    """Whether a server refuses for some time only: 429, or the 403 of an API that says when it will answer again."""
    limited = error.headers.get("X-RateLimit-Remaining") == "0" or error.headers.get("Retry-After") is not None
    return error.code == 429 or (error.code == 403 and limited)


def retry_after(error: urllib.error.HTTPError) -> float | None:
    """The seconds that a server asks to wait, which it gives as a number or as a date; None if it does not ask."""
    asked = (error.headers.get("Retry-After") or "").strip()
    if asked.isdigit():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked)
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _refused(url: str, error: urllib.error.HTTPError) -> DownloadError:
    if error.code == 404:
        return DownloadError(
            f"{url} does not exist (404).",
            "Check the version in config/versions.yaml, or set TOOLCHAIN=source to build it from its Go module.",
        )
    return DownloadError(
        f"{url}: the server said {error.code} {error.reason}.",
        "If a proxy refuses it, ask for the host to be allowed, or set TOOLCHAIN=source to build from package "
        "registries.",
    )


def untrusted(url: str, error: ssl.SSLCertVerificationError) -> str:
    """What to say where a server's certificate is not trusted."""
    return (
        f"{url}: the server's certificate is not trusted ({error.verify_message}). Behind a proxy that opens TLS, add "
        "its CA to this machine's (update-ca-certificates)."
    )


def _wrong(url: str, expected: str, actual: str, *, published: bool) -> str:
    source = f"{url}.sha256" if published else "config/versions.yaml, or locked by an earlier download"
    return (
        f"{url} has a wrong checksum.\n  expected {expected} (from {source})\n  actual   {actual}\n"
        "The file was thrown away. If a second try ends the same, something between here and upstream changes "
        "files, or the version was released again: do not go on before you know which."
    )


def _validator_of(response: http.client.HTTPResponse) -> str | None:
    # A weak ETag (W/...) may stay the same while bytes change, and If-Range does not allow it.
    tag = response.headers.get("ETag")
    if tag and not tag.startswith("W/"):
        return tag
    return response.headers.get("Last-Modified")


def _length_beyond(error: urllib.error.HTTPError) -> int | None:
    length = (error.headers.get("Content-Range") or "").rpartition("/")[2]
    return int(length) if length.isdigit() else None
