"""The proxy that delays: everything arrives, later, also what nobody waits for any more."""

import time
from collections.abc import Iterator

import pytest
from memory_api import MemoryApi, serving

from live.search.clients import Requests
from live.search.delay import DelayingProxy
from live.search.history import History, Outcome


@pytest.fixture
def api() -> Iterator[MemoryApi]:
    with serving() as made:
        yield made


@pytest.fixture
def proxy(api: MemoryApi) -> Iterator[DelayingProxy]:
    with DelayingProxy(f"https://127.0.0.1:{api.port}") as made:
        yield made


@pytest.fixture
def requests(api: MemoryApi, proxy: DelayingProxy) -> Requests:
    return Requests(api, History(), "run", 0, proxy_port=proxy.port)


def test_without_a_delay_it_passes_everything_on(requests: Requests) -> None:
    assert requests.create("run-0", "a").outcome == Outcome.OK
    assert requests.get("run-0").value == "a"
    requests.disconnect()
    assert requests.get("run-0").value == "a"


def test_requests_and_answers_are_delayed(requests: Requests, proxy: DelayingProxy) -> None:
    assert requests.create("run-0", "a").outcome == Outcome.OK
    proxy.seconds = 0.3
    read = requests.get("run-0")
    assert read.value == "a"
    assert read.returned - read.call > 0.6e9


def test_a_request_takes_effect_after_its_client_has_given_up(
    api: MemoryApi, requests: Requests, proxy: DelayingProxy
) -> None:
    assert requests.get("run-0").outcome == Outcome.MISSING
    proxy.seconds = 2.5
    assert requests.create("run-0", "a").outcome == Outcome.UNKNOWN
    assert "run-0" not in api.objects
    deadline = time.monotonic() + 20
    while "run-0" not in api.objects:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_is_not_there(api: MemoryApi) -> None:
    with DelayingProxy("https://127.0.0.1:1") as proxy:
        requests = Requests(api, History(), "run", 0, proxy_port=proxy.port)
        assert requests.create("run-0", "a").outcome == Outcome.REFUSED
