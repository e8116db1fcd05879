"""Which versions a running lab may change to: newer ones, a minor version at a time; of Kubernetes alone under kubeadm.

Only an upgrade that is not finished may return to the versions that it began from (upgrade_record.py).
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping

# Kubernetes: https://kubernetes.io/releases/version-skew-policy/
# etcd: https://etcd.io/docs/v3.6/upgrades/upgrade_3_6/
_MINOR_BY_MINOR = ("kubernetes", "etcd")
_KUBEADM = "kubeadm"
BY_PACKAGES = "kubeadm, by packages"
"""How a lab was made by kubeadm whose programs are packages of apt."""


def made_by(bootstrap: str, packages: str) -> str:
    """How a lab was made, as far as it decides which versions may change.

    Args:
        bootstrap: the bootstrap method.
        packages: where kubeadm's programs come from.
    """
    return BY_PACKAGES if bootstrap == _KUBEADM and packages == "apt" else bootstrap


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


def check(
    before: Mapping[str, Collection[str]],
    wanted: Mapping[str, str],
    bootstrap: str,
    permitted: Mapping[str, str] | None = None,
) -> None:
    """Refuse versions that a running lab cannot change to, unless INSIST=yes is in the environment.

    Args:
        before: product -> the versions that the lab has of it; several where an `up` stopped in the middle.
        wanted: product -> version.
        bootstrap: how the lab was made.
        permitted: product -> the version that the lab may return to.

    Raises:
        VersionChangeError: with a sentence for each.
    """
    if os.environ.get("INSIST") != "yes" and (found := list(refusals(before, wanted, bootstrap, permitted))):
        lines = ["Refused, and nothing was changed: a running lab cannot change its versions like this.", *found]
        raise VersionChangeError(
            "\n".join([*lines, "INSIST=yes in the environment (./hardway up --insist) allows it."])
        )


def refusals(
    before: Mapping[str, Collection[str]],
    wanted: Mapping[str, str],
    bootstrap: str,
    permitted: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Why a running lab cannot have these versions: a sentence for each. The arguments are those of `check`."""
    for product, version in sorted(wanted.items()):
        # A product that is new in the lab has no version before.
        has = sorted(before.get(product, ()), key=numbers)
        if not has or set(has) == {version} or (permitted or {}).get(product) == version:
            continue
        newest, oldest = has[-1], has[0]
        if bootstrap == _KUBEADM and product != "kubernetes":
            why = "in a running kubeadm lab only the version of kubernetes changes"
        elif bootstrap == BY_PACKAGES:
            why = "the versions of a running kubeadm lab with apt's packages are immutable"
        elif numbers(version) < numbers(newest):
            why = "that is a downgrade"
        elif product in _MINOR_BY_MINOR and _skips(oldest, version):
            why = "that skips a minor version"
        else:
            continue
        change = f"{product} {' and '.join(has)} to {version}"
        yield f"{change}: {why}; set lab.versions.{product} to {newest}, or recreate the lab (destroy, then up)."


def oldest(versions: Collection[str]) -> str:
    """The lowest of some versions."""
    return min(versions, key=numbers)


def numbers(version: str) -> tuple[int, ...]:
    """A version as what it is sorted by."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _skips(before: str, after: str) -> bool:
    (major, minor), (new_major, new_minor) = numbers(before)[:2], numbers(after)[:2]
    return major != new_major or new_minor > minor + 1
