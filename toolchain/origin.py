"""Where files come from: official releases where they can be reached, else sources from package registries.

The environment variable TOOLCHAIN decides for all: unset, each host is asked once; `source` asks nobody and builds;
`upstream` never builds.
"""

import os
import urllib.error
import urllib.request
from enum import Enum
from functools import cache

from toolchain.errors import ToolchainError

_PROBE_SECONDS = 4.0


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


def of_release(url: str) -> Origin:
    """Where to take a released file from; `url` stands for all files of its host."""
    return policy() or (Origin.UPSTREAM if _answers(url, accepted=(404,)) else Origin.SOURCE)


def of_images(registry: str) -> Origin:
    """Where to take container images from, e.g. those of `registry.k8s.io`."""
    host = "registry-1.docker.io" if registry == "docker.io" else registry
    return policy() or (Origin.UPSTREAM if _answers(f"https://{host}/v2/", accepted=(401,)) else Origin.SOURCE)


@cache
def _answers(url: str, *, accepted: tuple[int, ...]) -> bool:
    # A HEAD that follows redirects: release hosts hand over to storage hosts, which may be the ones out of reach.
    # An answer like 403 or 502 is a proxy's refusal; 404 is the host's own, and the download will report it.
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        return error.code in accepted
    except OSError:
        return False
