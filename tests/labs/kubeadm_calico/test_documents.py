"""The pages about the lab `kubeadm`, on a lab of the same shape: each command runs, and prints what the page shows."""

from pathlib import Path

import pytest

from lab import documents
from lab.cluster import Cluster
from lab.documents_run import check_alone, running

pytestmark = pytest.mark.long


@pytest.mark.parametrize("page", documents.pages_of("kubeadm"), ids=lambda page: page.stem)
def test_commands_print_what_the_page_shows(page: Path, stack: str, cluster: Cluster) -> None:
    """A page that shows what a command printed once, or a command that does not work any more."""
    with running("kubeadm", on=stack) as run:
        check_alone(page, run, stack=stack)
