"""The lab `by-hand-test`, built up to one chapter after the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import session
from lab.fixtures import show

__all__ = ["show"]
STACK = "by-hand-test"
_ORDER = ("test_by_hand",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    session.in_order(items, Path(__file__).parent, _ORDER)


@pytest.fixture(scope="session")
def stack(show: session.Show) -> Iterator[str]:
    """No lab at the beginning, and none at the end."""
    with session.empty_stack(STACK, show):
        yield STACK
