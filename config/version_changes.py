"""Which versions a running lab may change to: newer ones, a minor version at a time, and none where kubeadm made it."""

import os
import re
from collections.abc import Collection, Iterator, Mapping

# Kubernetes: https://kubernetes.io/releases/version-skew-policy/
# etcd: https://etcd.io/docs/v3.6/upgrades/upgrade_3_6/
_MINOR_BY_MINOR = ("kubernetes", "etcd")
_KUBEADM = "kubeadm"


class VersionChangeError(Exception):
    """The report of what a running lab cannot change to."""


def written(versions: Mapping[str, str]) -> str:
    """The versions as one word."""
    return ",".join(f"{product}={version}" for product, version in sorted(versions.items()))


def read(word: str) -> dict[str, str]:
    """The versions that `written` wrote."""
    return dict(part.split("=", 1) for part in word.split(",") if "=" in part)


def recorded(outputs: Mapping[str, object] | None) -> dict[str, str]:
    """The versions in the outputs of the command that prints them."""
    return read(str((outputs or {}).get("stdout", "")).strip())


def check(before: Mapping[str, Collection[str]], wanted: Mapping[str, str], bootstrap: str) -> None:
    """Refuse versions that a running lab cannot change to, unless INSIST=yes is in the environment.

    Args:
        before: product -> the versions that the lab has of it; several where an `up` stopped in the middle.
        wanted: product -> version.
        bootstrap: how the lab was made.

    Raises:
        VersionChangeError: with a sentence for each.
    """
    if os.environ.get("INSIST") != "yes" and (found := list(refusals(before, wanted, bootstrap))):
        lines = ["Refused, and nothing was changed: a running lab cannot change its versions like this.", *found]
        raise VersionChangeError(
            "\n".join([*lines, "INSIST=yes in the environment (./hardway up --insist) allows it."])
        )


def refusals(before: Mapping[str, Collection[str]], wanted: Mapping[str, str], bootstrap: str) -> Iterator[str]:
    """Why a running lab cannot have these versions: a sentence for each. The arguments are those of `check`."""
    for product, version in sorted(wanted.items()):
        # A product that is new in the lab has no version before.
        has = sorted(before.get(product, ()), key=_numbers)
        if not has or set(has) == {version}:
            continue
        newest, oldest = has[-1], has[0]
        if bootstrap == _KUBEADM:
            why = "the versions of a running kubeadm lab are immutable"
        elif _numbers(version) < _numbers(newest):
            why = "that is a downgrade"
        elif product in _MINOR_BY_MINOR and _skips(oldest, version):
            why = "that skips a minor version"
        else:
            continue
        change = f"{product} {' and '.join(has)} to {version}"
        yield f"{change}: {why}; set lab.versions.{product} to {newest}, or recreate the lab (destroy, then up)."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _skips(before: str, after: str) -> bool:
    (major, minor), (new_major, new_minor) = _numbers(before)[:2], _numbers(after)[:2]
    return major != new_major or new_minor > minor + 1
