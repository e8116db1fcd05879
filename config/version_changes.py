"""Which versions a running lab may change to: newer ones, a minor version at a time, and none where kubeadm made it.

`python -m config.version_changes` is what the guard of plain `pulumi up` runs (components/version_guard.py): it printed
the versions that the lab has the last time.
"""

import os
import sys
from collections.abc import Collection, Iterator, Mapping

# Kubernetes: https://kubernetes.io/releases/version-skew-policy/
# etcd: https://etcd.io/docs/v3.6/upgrades/upgrade_3_6/
_MINOR_BY_MINOR = ("kubernetes", "etcd")
_KUBEADM = "kubeadm"


def written(versions: Mapping[str, str], *, bootstrap: str) -> str:
    """The versions as one word; its first part says how the lab was made."""
    return ",".join([bootstrap, *(f"{product}={version}" for product, version in sorted(versions.items()))])


def read(word: str) -> dict[str, str]:
    """The versions that `written` wrote."""
    return dict(part.split("=", 1) for part in word.split(",") if "=" in part)


def refusals(before: Mapping[str, Collection[str]], wanted: Mapping[str, str], *, bootstrap: str) -> Iterator[str]:
    """Why a running lab cannot have these versions: a sentence for each.

    Args:
        before: product -> the versions that the lab has of it; several where an `up` stopped in the middle.
        wanted: product -> version.
        bootstrap: how the lab was made.
    """
    for product, version in sorted(wanted.items()):
        # A product that is new in the lab has no version before.
        has = sorted(before.get(product, ()), key=_numbers)
        if not has or set(has) == {version}:
            continue
        newest, oldest = has[-1], has[0]
        change = f"{product} {' and '.join(has)} to {version}"
        if bootstrap == _KUBEADM:
            why = "no version of a lab that kubeadm made can be changed while it is up"
        elif _numbers(version) < _numbers(newest):
            why = "that is a downgrade"
        elif product in _MINOR_BY_MINOR and _skips(oldest, version):
            why = "that skips a minor version"
        else:
            continue
        yield f"{change}: {why}; write {product}: {newest} below lab.versions, or destroy the lab and make it again."


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _skips(before: str, after: str) -> bool:
    (major, minor), (new_major, new_minor) = _numbers(before)[:2], _numbers(after)[:2]
    return major != new_major or new_minor > minor + 1


def main(word: str) -> int:
    """Print the versions that are wanted; exit status 1, with a report, where the lab cannot change to them."""
    wanted = read(word)
    before = read(os.environ.get("PULUMI_COMMAND_STDOUT", "").strip())
    has = {product: {version} for product, version in before.items()}
    found = list(refusals(has, wanted, bootstrap=word.partition(",")[0]))
    if found and os.environ.get("INSIST") != "yes":
        print(report(found), file=sys.stderr)
        return 1
    print(word)
    return 0


def report(found: Collection[str]) -> str:
    """What a person reads."""
    lines = ["Refused, and nothing was changed: the lab is up, and its versions cannot change like this.", *found]
    return "\n".join([*lines, "INSIST=yes in the environment (make up INSIST=yes) does it all the same."])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
