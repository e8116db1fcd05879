"""Upstream's list of conformance tests, and the groups that they run in: by SIG, those that run alone apart."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from toolchain import conformance
from toolchain.command import ask
from toolchain.errors import ToolchainError

_SIG = re.compile(r"\[(sig-[a-z-]+)\]")
_SERIAL = "[Serial]"
_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Group:
    """Tests that run in one call.

    Args:
        sig: sig-apps.
        is_serial: whether each of them must run without others beside it.
        tests: their names.
    """

    sig: str
    is_serial: bool
    tests: Sequence[str]

    @property
    def name(self) -> str:
        """sig-apps, or sig-apps-serial."""
        return f"{self.sig}-serial" if self.is_serial else self.sig

    @property
    def selection(self) -> list[str]:
        """The options of ginkgo that select exactly these tests."""
        return [f"--focus={re.escape(test)}$" for test in self.tests]


def groups(programs: Path, chosen: Collection[str] = ()) -> list[Group]:
    """The conformance tests of a version, in groups; those that run alone come last.

    Args:
        programs: the directory of the test binary.
        chosen: the SIGs whose tests are wanted; all of them where it is empty.

    Raises:
        ToolchainError: the binary does not list its tests, or has none of a SIG.
    """
    done = ask(programs / conformance.SUITE, "--list-conformance-tests", timeout=_SECONDS)
    if done.returncode != 0:
        raise ToolchainError(f"The test binary does not list its tests: {(done.stderr or done.stdout).strip()[-500:]}")
    return grouped([entry["codename"] for entry in yaml.safe_load(done.stdout)], chosen)


def grouped(tests: Sequence[str], chosen: Collection[str] = ()) -> list[Group]:
    """Tests by their names, in groups; see `groups`."""
    found: dict[tuple[bool, str], list[str]] = {}
    for test in tests:
        sig = _SIG.search(test)
        if sig is None:
            raise ToolchainError(f"A conformance test has no SIG in its name: {test}")
        found.setdefault((_SERIAL in test, sig[1]), []).append(test)
    known = sorted({sig for _, sig in found})
    if unknown := sorted(set(chosen) - set(known)):
        raise ToolchainError(f"No conformance test is of {', '.join(unknown)}. There are: {', '.join(known)}.")
    return [
        Group(sig=sig, is_serial=is_serial, tests=of)
        for (is_serial, sig), of in sorted(found.items())
        if not chosen or sig in chosen
    ]
