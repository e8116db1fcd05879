"""Where files come from: official releases where they can be reached, else sources from package registries.

The environment variable TOOLCHAIN decides for all: unset, each host is asked once; `source` asks no host and builds;
`upstream` never builds. A host that is slow, or limits the rate of requests, is reached: its files are downloaded,
however long that takes. Where a host cannot be reached, that is said before anything is built.
"""

import os
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from enum import Enum
from functools import cache
from urllib.parse import urlsplit

from toolchain.errors import ToolchainError
from toolchain.releases.download import is_rate_limit, untrusted

# To connect, and again for an answer. Some release hosts take 5 s for a HEAD.
_PROBE_SECONDS = 15.0
# A gateway that has no answer right now (502 to 504) is asked again; a proxy that refuses a host says the same.
_PAUSES = (1.0, 2.0, 4.0)


class Origin(Enum):
    """Who made a file."""

    UPSTREAM = "upstream"
    SOURCE = "source"


def policy() -> Origin | None:
    """What TOOLCHAIN demands; None where it leaves the choice.

    Raises:
        ToolchainError: its value means nothing.
    """
    match os.environ.get("TOOLCHAIN", ""):
        case "":
            return None
        case "upstream":
            return Origin.UPSTREAM
        case "source":
            return Origin.SOURCE
        case other:
            raise ToolchainError(f"TOOLCHAIN={other!r}: must be `upstream`, `source`, or not set.")


def permits(origin: Origin) -> bool:
    """Whether TOOLCHAIN lets a file of this origin be used."""
    return policy() in (None, origin)


@dataclass(frozen=True, kw_only=True)
class Release:
    """Where the official release of something is.

    Args:
        url: stands for all files of its host.
        what: what the host has, in the plural.
        accepted: answers beside success that show that the host is there.
    """

    url: str
    what: str
    accepted: tuple[int, ...]

    def why_not(self) -> str | None:
        """Why it is not taken from there, as the beginning of a sentence; None if it is. The host is asked once.

        Raises:
            ToolchainError: the host's certificate is not trusted.
        """
        if policy() is Origin.SOURCE:
            return "TOOLCHAIN=source is set"
        why = None if policy() is Origin.UPSTREAM else _unreachable(self.url, accepted=self.accepted)
        return why and f"{self.what} at {urlsplit(self.url).hostname} cannot be reached ({why})"


def released(url: str) -> Release:
    """A released file, by its URL."""
    return Release(url=url, what="Official releases", accepted=(404,))


def pulled(registry: str) -> Release:
    """The container images of a registry, e.g. `registry.k8s.io`."""
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    return Release(url=f"https://{host}/v2/", what="Container images", accepted=(401,))


@cache
def _unreachable(url: str, *, accepted: tuple[int, ...]) -> str | None:
    """Why a host cannot be reached; None if it can."""
    for pause in (*_PAUSES, None):
        status, why = _asked(url)
        if status is None:
            return why
        if status < 400 or status in (*accepted, 408, 425, 429):
            return None
        if status < 500 or pause is None:
            return why
        time.sleep(pause)
    raise AssertionError("the last pause is None")


def _asked(url: str) -> tuple[int | None, str]:
    """The status of a host's answer, 429 for every rate limit and 408 for a slow answer; None where no host answers."""
    # Redirects are followed: release hosts hand over to storage hosts, which may be the ones that cannot be reached.
    try:
        return _status("HEAD", url)
    except urllib.error.HTTPError as error:
        if is_rate_limit(error):
            return 429, ""
        if error.code not in (403, 405, 501):
            return error.code, f"{error.code} {error.reason}"
    except OSError as error:
        return _no_answer(url, error)
    # Storage hosts refuse a HEAD of a URL that is signed for GET.
    try:
        return _status("GET", url)
    except urllib.error.HTTPError as error:
        return 429 if is_rate_limit(error) else error.code, f"{error.code} {error.reason}"
    except OSError as error:
        return _no_answer(url, error)


def _status(method: str, url: str) -> tuple[int, str]:
    request = urllib.request.Request(url, method=method, headers={"Range": "bytes=0-0"} if method == "GET" else {})
    with urllib.request.urlopen(request, timeout=_PROBE_SECONDS) as response:
        return response.status, ""


def _no_answer(url: str, error: OSError) -> tuple[int | None, str]:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise ToolchainError(f"{untrusted(url, reason)} To build everything instead, set TOOLCHAIN=source.") from error
    # urllib wraps what happens until the request is sent. Later the host is there, and slow.
    if isinstance(error, TimeoutError):
        return 408, ""
    if isinstance(reason, TimeoutError):
        return None, f"no connection within {_PROBE_SECONDS:.0f} s"
    return None, getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
