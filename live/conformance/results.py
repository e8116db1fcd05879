"""What Kubernetes' tests said: their JUnit files, one file of all, and the table of results."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.whole_file import write_whole

_SUITE = "Kubernetes e2e suite"
# Of ginkgo's names: the kind of the node, which the list of the tests does not have.
_PREFIX = "[It] "
# An event of the kubelet, which the tests print where one failed.
_NOT_PULLED = re.compile(r'Failed to pull image \\?"([^"\\]+)')


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one test ended.

    Args:
        name: as in upstream's list of conformance tests.
        failure: why it failed; None where it passed.
        seconds: how long it took.
        not_pulled: where it failed: the images that a node could not pull meanwhile.
    """

    name: str
    failure: str | None
    seconds: float
    not_pulled: Sequence[str] = ()


def read(junit: Path) -> list[Result]:
    """The results of the tests that ran.

    Raises:
        ParseError: the file is not whole.
        FileNotFoundError: there is none.
    """
    return [_result(case) for case in _ran(junit)]


def merge(junits: Iterable[Path], merged: Path) -> None:
    """Write one JUnit file of the tests that ran, as a submission to upstream's programme has it.

    Args:
        junits: the files to merge; of two results of one test the later file's counts.
        merged: the file to write. A killed process leaves it as it was.
    """
    cases = list({case.get("name"): case for junit in junits for case in _ran(junit)}.values())
    results = [_result(case) for case in cases]
    numbers = {
        "tests": str(len(results)),
        "failures": str(sum(each.failure is not None for each in results)),
        "errors": "0",
        "time": f"{sum(each.seconds for each in results):.3f}",
    }
    suites = ElementTree.Element("testsuites", numbers)
    ElementTree.SubElement(suites, "testsuite", {"name": _SUITE, **numbers}).extend(cases)
    write_whole(merged, ElementTree.tostring(suites, encoding="UTF-8", xml_declaration=True))


def unfinished(expected: Sequence[str], results: Sequence[Result]) -> list[str]:
    """The tests that have no result, in their order."""
    have = {each.name for each in results}
    return [name for name in expected if name not in have]


def _ran(junit: Path) -> list[ElementTree.Element]:
    # ginkgo also lists what is skipped, what it was interrupted in, and the set-up of the whole suite.
    return [
        case
        for case in ElementTree.parse(junit).iter("testcase")
        if case.find("skipped") is None
        and case.get("status") != "interrupted"
        and case.get("name", "").startswith(_PREFIX)
    ]


def _result(case: ElementTree.Element) -> Result:
    failed = next((each for each in (case.find("failure"), case.find("error")) if each is not None), None)
    return Result(
        name=case.get("name", "").removeprefix(_PREFIX),
        failure=None
        if failed is None
        else failed.get("message") or (failed.text or "").strip() or "no reason is given",
        seconds=float(case.get("time", "0")),
        not_pulled=() if failed is None else sorted(set(_NOT_PULLED.findall("".join(case.itertext())))),
    )
