"""The pages' commands on a lab of the tests: what tests/labs/*/test_documents.py have in common."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lab import documents, session
from lab.commands import settings_file
from lab.documents import Outcome
from lab.documents_server import serving


class Run(Protocol):
    """Runs the commands of a page in a shell of their own; with `long` also the blocks with this mark."""

    def __call__(self, page: Path, *, long: bool = False) -> Sequence[Outcome]: ...


@contextmanager
def sessions(lab: str, *, on: str) -> Iterator[tuple[Callable[[], documents.Session], documents.Translation]]:
    """What makes shells on a stack of the shape of the pages' lab, and what puts its name and ranges into commands."""
    # The name of a socket is short: pytest's own directories may be too long for it.
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as socket:
        home = Path(scratch, "home")
        home.mkdir()
        translation = documents.Translation(session.settings_of(lab), session.settings_of(on), home=home)
        yield lambda: documents.Session(on, home, socket), translation


@contextmanager
def running(lab: str, *, on: str) -> Iterator[Run]:
    """The commands that the pages have for a lab, on another stack of its shape."""
    with sessions(lab, on=on) as (shell_of_page, translation):

        def run_page(page: Path, *, long: bool = False) -> Sequence[Outcome]:
            with shell_of_page() as shell:
                return list(documents.run_page(page, lab, shell, translation, long=long))

        yield run_page


def check(outcomes: Sequence[Outcome]) -> None:
    """Each command has printed what the page shows."""
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    assert not problems, "\n\n".join([*problems, "If the page is to show this: `make docs`, and read `git diff`."])


def check_alone(page: Path, run: Run, *, stack: str) -> None:
    """The whole page, with previews of other settings, which no other page may see; the settings are kept."""
    settings = settings_file(stack)
    before = settings.read_bytes()
    try:
        check(run(page, long=True))
        assert settings.read_bytes() == before
    finally:
        settings.write_bytes(before)
