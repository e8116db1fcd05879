"""What clients record of what they are told, against an API in memory."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from memory_api import MemoryApi, serving

from live.https_api import ApiError
from live.search.checks import Checker, as_watched, in_order_of_versions
from live.search.clients import Requests, Watch, Writer, make_namespace, newest_version
from live.search.history import Action, History, Outcome, acknowledged
from toolchain.from_source import linearizability
from toolchain.progress import Report

KEYS = ["run-0", "run-1"]


@pytest.fixture
def api() -> Iterator[MemoryApi]:
    with serving() as made:
        yield made


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def requests(api: MemoryApi, history: History) -> Requests:
    return Requests(api, history, "run", 0)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_written_is_recorded(requests: Requests, history: History) -> None:
    made = requests.create("run-0", "a")
    assert requests.update("run-0", "b", version=made.version, expected_value="a").outcome == Outcome.OK
    assert requests.update("run-0", "c", version=made.version, expected_value="a").outcome == Outcome.CONFLICT
    assert requests.create("run-0", "d").outcome == Outcome.CONFLICT
    read = requests.get("run-0")
    assert (read.outcome, read.value, read.version) == (Outcome.OK, "b", made.version + 1)
    assert requests.delete("run-0").outcome == Outcome.OK
    assert requests.get("run-0").outcome == requests.delete("run-0").outcome == Outcome.MISSING
    assert [each.action for each in history.operations] == [
        *(Action.CREATE, Action.UPDATE, Action.UPDATE, Action.CREATE, Action.GET),
        *(Action.DELETE, Action.GET, Action.DELETE),
    ]
    assert acknowledged(history.operations) == 3
    assert all(each.call <= each.returned for each in history.operations)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (401, Outcome.REFUSED),
        (403, Outcome.REFUSED),
        (429, Outcome.REFUSED),
        (500, Outcome.UNKNOWN),
        (503, Outcome.UNKNOWN),
        (504, Outcome.UNKNOWN),
    ],
)
def test_an_answer_that_is_no_success(api: MemoryApi, requests: Requests, status: int, outcome: Outcome) -> None:
    api.statuses = [status]
    assert requests.create("run-0", "a").outcome == outcome
    # The next request has a connection again.
    assert requests.get("run-0").outcome == Outcome.MISSING


def test_a_connection_that_ends_without_an_answer(api: MemoryApi, requests: Requests) -> None:
    """The write took effect here: a client must not call that an error."""
    api.statuses = [0]
    assert requests.create("run-0", "a").outcome == Outcome.UNKNOWN
    assert requests.get("run-0").value == "a"


def test_a_server_that_is_not_there(api: MemoryApi, requests: Requests) -> None:
    api.port = 1
    assert requests.create("run-0", "a").outcome == Outcome.REFUSED


def at_work(api: MemoryApi, history: History, *, operations: int) -> Watch:
    """Three clients and a watch at work, until there are so many operations; the watch has then seen all."""
    with Watch(api, "run", newest_version(api)) as watch:
        with ExitStack() as running:
            for number in range(3):
                writer = Writer(Requests(api, history, "run", number), KEYS, number, random.Random(number))
                running.enter_context(writer)
            eventually(lambda: len(history.operations) >= operations)
        eventually(lambda: watch.version >= api.version)
    return watch


@pytest.fixture(scope="module")
def checker() -> Checker:
    with Report() as report:
        return Checker(program=linearizability.ensure(report))


def test_the_history_of_a_correct_api_is_accepted(api: MemoryApi, history: History, checker: Checker) -> None:
    api.statuses = [0, 500, 429, 0, 0, 504]
    watch = at_work(api, history, operations=100)
    done = history.operations
    assert checker.violations(done) == []
    assert in_order_of_versions(done) == as_watched(done, watch.events) == []
    for action in Action:
        assert any(each.action == action and each.outcome == Outcome.OK for each in done)


def test_an_api_that_loses_updates_is_found(
    api: MemoryApi, requests: Requests, history: History, checker: Checker
) -> None:
    api.ignores_versions = True
    made = requests.create("run-0", "a")
    other = Requests(api, history, "run", 1)
    assert other.update("run-0", "b", version=made.version, expected_value="a").outcome == Outcome.OK
    assert requests.update("run-0", "c", version=made.version, expected_value="a").outcome == Outcome.OK
    assert checker.violations(history.operations) == ["run-0: its history is not linearizable"]


def test_an_api_with_old_data_is_found(api: MemoryApi, history: History, checker: Checker) -> None:
    """As after a restore that nobody was told of: objects and versions are those of before."""
    at_work(api, history, operations=40)
    with api.lock:
        objects, version = dict(api.objects), api.version
    requests = Requests(api, history, "run", 7)
    for key in KEYS:
        requests.delete(key)
        requests.create(key, f"new {key}")
    with api.lock:
        api.objects, api.version = objects, version
    for key in KEYS:
        requests.get(key)
    assert len(checker.violations(history.operations)) == len(KEYS)


def test_a_watch_goes_on_after_its_connection(api: MemoryApi, requests: Requests, history: History) -> None:
    api.breaks_watch_after = 2
    with Watch(api, "run", api.version) as watch:
        for number in range(7):
            requests.create(f"run-{number}", f"{number}")
        eventually(lambda: watch.version >= api.version)
    assert [each.value for each in watch.events] == [str(number) for number in range(7)]
    assert as_watched(history.operations, watch.events) == []


def test_a_watch_that_cannot_go_on_says_so(api: MemoryApi) -> None:
    api.forgets = True
    with Watch(api, "run", 5) as watch:
        eventually(lambda: bool(watch.failure))
    assert watch.failure == "the API no longer has the changes after version 5"


def test_a_namespace_that_is_going_is_waited_for(api: MemoryApi) -> None:
    """Objects could not be made in it, and it would take with it what is made."""
    api.goes_after = 3
    make_namespace(api, seconds=20)
    assert api.has_namespace
    make_namespace(api, seconds=20)


def test_a_namespace_that_does_not_go_is_an_error(api: MemoryApi) -> None:
    api.goes_after = 1000
    with pytest.raises(ApiError, match="does not go within 0 s"):
        make_namespace(api, seconds=0)
