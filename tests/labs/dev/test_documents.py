"""README.md and docs/ on the lab: each command of a page runs, and prints what the page shows."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import documents
from lab.documents import Outcome
from lab.documents_run import Run, check, check_alone, running
from lab.workload import Workload

# Under load the commands of all pages take minutes.
pytestmark = pytest.mark.long

_PAGES = documents.pages_of(documents.DEFAULT_LAB)
_LONG = [page for page in _PAGES if any("long" in block.marks for block in documents.blocks(page))]


@pytest.fixture(scope="module")
def run(workload: Workload) -> Iterator[Run]:
    """Runs the commands of a page in a shell of their own. The images that pages need are on the workers."""
    with running(documents.DEFAULT_LAB, on=workload.cluster.settings.name) as run_page:
        yield run_page


@pytest.fixture(scope="module")
def outcomes(run: Run) -> Iterator[Mapping[Path, Future[Sequence[Outcome]]]]:
    """All pages side by side: most of the time is spent waiting for machines. No page changes what another shows."""
    with ThreadPoolExecutor(4) as threads:
        yield {page: threads.submit(run, page) for page in _PAGES}


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page: Path, outcomes: Mapping[Path, Future[Sequence[Outcome]]]) -> None:
    """A page that shows what a command printed once, or a command that does not work any more."""
    check(outcomes[page].result())


@pytest.mark.long
@pytest.mark.parametrize("page", _LONG, ids=lambda page: page.stem)
def test_slow_commands_print_what_the_page_shows(
    page: Path, stack: str, run: Run, outcomes: Mapping[Path, Future[Sequence[Outcome]]]
) -> None:
    """The same with previews of other settings, which no other page may see."""
    for each in outcomes.values():
        each.exception()
    check_alone(page, run, stack=stack)
