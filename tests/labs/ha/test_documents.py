"""The pages about the lab `ha`, on `ha-test`: each command of a page runs, and prints what the page shows."""

from pathlib import Path

import pytest

from lab import documents
from lab.cluster import Cluster
from lab.commands import Started
from lab.documents_run import check_alone, running
from lab.polling import eventually
from labs.ha.conftest import STACK

pytestmark = pytest.mark.long


@pytest.mark.parametrize("page", documents.pages_of("ha"), ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page: Path, cluster: Cluster) -> None:
    """A page that shows what a command printed once, or a command that does not work any more."""
    with running("ha", on=STACK) as run:
        check_alone(page, run, stack=STACK)
    # The pages stop a member for a moment.
    eventually("a healthy lab", lambda: Started("status", stack=STACK).wait().code == 0, seconds=120)
