"""A lab of the tests' own for a whole session: made once, used by all tests, destroyed in the end."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from config import lab as config
from lab.cluster import Cluster
from lab.commands import CHECKOUT, Started, pulumi, settings_file
from lab.process_watch import ProcessWatch

Show = Callable[[str], None]
# The largest lab takes one minute on an idle host with two cores, and seven beside five others.
_SECONDS = 15 * 60


def in_order(items: list[pytest.Item], folder: Path, order: Sequence[str]) -> None:
    """Put the tests of a folder, where they stand among all, in the order of their files' names in `order`."""
    mine = [item for item in items if folder in item.path.parents]
    places = [place for place, item in enumerate(items) if item in mine]
    mine.sort(key=lambda item: order.index(item.path.stem))
    for place, item in zip(places, mine, strict=True):
        items[place] = item


def printer(pytest_config: pytest.Config) -> Show:
    """What prints a line at once, although pytest captures what tests print."""
    capture = pytest_config.pluginmanager.getplugin("capturemanager")

    def print_at_once(line: str) -> None:
        with capture.global_and_fixture_disabled():
            # A process of `pytest --numprocesses` has no standard output of its own.
            print(line, end="", file=sys.stderr, flush=True)

    return print_at_once


def settings_of(stack: str) -> config.Lab:
    """What a stack's lab is to be."""
    document = yaml.safe_load(settings_file(stack).read_text())["config"]["hardway:lab"]
    return config.parse(stack, document)


@contextmanager
def empty_stack(stack: str, show: Show) -> Iterator[None]:
    """No lab at the beginning, whatever an earlier run has left, and none at the end, whatever the tests did."""
    assert os.geteuid() == 0, "these tests make privileged containers: run them as root"
    file = settings_file(stack)
    before = file.read_bytes()
    _destroy(stack, show)
    try:
        yield
    finally:
        file.write_bytes(before)
        _destroy(stack, show)
        file.write_bytes(before)


def forget(stack: str) -> None:
    """Remove a stack with its state, where the machines it stood on are gone by other means."""
    pulumi("stack", "rm", "--force", "--yes", "--preserve-config", stack=stack)
    shutil.rmtree(CHECKOUT / ".state" / stack, ignore_errors=True)


def made(settings: config.Lab, show: Show) -> Cluster:
    """The lab, up."""
    with ProcessWatch() as watch:
        up = Started("up", show=show, stack=settings.name).wait(_SECONDS)
    assert up.code == 0, "`up` failed; its output stands above"
    return Cluster(settings=settings, up=up, command_lines=frozenset(watch.seen))


def _destroy(stack: str, show: Show) -> None:
    done = Started("destroy", show=show, stack=stack).wait(_SECONDS)
    assert done.code == 0, "`destroy` failed; its output stands above"
    # `destroy` keeps snapshots, which are the user's. Those of tests before, as of an upgrade, have no lab any more.
    shutil.rmtree(CHECKOUT / ".state" / stack / "snapshots", ignore_errors=True)
