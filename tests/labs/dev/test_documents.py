"""README.md and docs/ on the lab: each command of a page runs, and prints what the page shows."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import documents, session
from lab.commands import settings_file
from lab.documents import Outcome
from lab.documents_server import serving
from lab.workload import Workload

# Under load the commands of all pages take minutes.
pytestmark = pytest.mark.long

_PAGES = documents.pages_of(documents.DEFAULT_LAB)
_LONG = [page for page in _PAGES if any("long" in block.marks for block in documents.blocks(page))]

Run = Callable[[Path], Sequence[Outcome]]


@pytest.fixture(scope="module")
def run(workload: Workload) -> Iterator[Callable[..., Sequence[Outcome]]]:
    """Runs the commands of a page in a shell of their own. The images that pages need are on the workers."""
    stack = workload.cluster.settings.name
    # The name of a socket is short: pytest's own directories may be too long for it.
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as socket:
        home = Path(scratch, "home")
        home.mkdir()
        translation = documents.Translation(
            session.settings_of(documents.DEFAULT_LAB), session.settings_of(stack), home=home
        )

        def run_page(page: Path, *, long: bool = False) -> Sequence[Outcome]:
            with documents.Session(stack, home, socket) as shell:
                return list(documents.run_page(page, documents.DEFAULT_LAB, shell, translation, long=long))

        yield run_page


@pytest.fixture(scope="module")
def outcomes(run: Run) -> Iterator[Mapping[Path, Future[Sequence[Outcome]]]]:
    """All pages side by side: most of the time is spent waiting for machines. No page changes what another shows."""
    with ThreadPoolExecutor(4) as threads:
        yield {page: threads.submit(run, page) for page in _PAGES}


def _check(outcomes: Sequence[Outcome]) -> None:
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    assert not problems, "\n\n".join([*problems, "If the page is to show this: `make docs`, and read `git diff`."])


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page: Path, outcomes: Mapping[Path, Future[Sequence[Outcome]]]) -> None:
    """A page that shows what a command printed once, or a command that does not work any more."""
    _check(outcomes[page].result())


@pytest.mark.long
@pytest.mark.parametrize("page", _LONG, ids=lambda page: page.stem)
def test_slow_commands_print_what_the_page_shows(
    page: Path, stack: str, run: Callable[..., Sequence[Outcome]], outcomes: Mapping[Path, Future[Sequence[Outcome]]]
) -> None:
    """The same with previews of other settings, which no other page may see."""
    for each in outcomes.values():
        each.exception()
    settings = settings_file(stack)
    before = settings.read_bytes()
    try:
        _check(run(page, long=True))
        assert settings.read_bytes() == before
    finally:
        settings.write_bytes(before)
