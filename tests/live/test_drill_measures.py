"""The numbers of drills, out of what probes saw: each is missed where it did not come, and is not asked where it
cannot come."""

from dataclasses import replace

import pytest

from config.machines import Role
from live.cluster import LiveMachine
from live.drills import measures
from live.drills.measures import Observed
from live.drills.probes import View
from live.drills.samples import Sample

MANAGER, SCHEDULER = "kube-controller-manager", "kube-scheduler"
LOST = LiveMachine(name="controller-1", roles=frozenset({Role.CONTROLLER}), address="10.0.0.11")
BEFORE = View(
    at=99,
    leaders={MANAGER: "controller-1_a", SCHEDULER: "controller-0_b"},
    api_servers=frozenset({"10.0.0.10", "10.0.0.11"}),
    ready=frozenset({"worker-0", "worker-1"}),
    heard={"worker-0": 95, "worker-1": 96},
)


def seen(*views: View, **samples: list[Sample]) -> Observed:
    return Observed(
        target=LOST,
        workers=["worker-0", "worker-1"],
        before=BEFORE,
        injected_at=100,
        until=160,
        views=views,
        samples={name: samples.get(name.replace(" ", "_"), []) for name in measures.PROBES},
    )


def later(at: float, **changes: object) -> View:
    return replace(BEFORE, at=at, **changes)  # type: ignore[arg-type]


def test_a_leader_is_new_once_another_identity_holds_the_lease() -> None:
    measure = measures.new_leader(MANAGER, 20)
    nobody = later(110, leaders={MANAGER: ""})
    restarted = later(117, leaders={MANAGER: "controller-1_c"})
    assert measure.seconds(seen(later(105), nobody)) is None
    assert measure.seconds(seen(later(105), nobody, restarted)) == 17


def test_a_leader_elsewhere_is_not_waited_for() -> None:
    """It would be called missed, though nobody was to take over."""
    assert measures.new_leader(MANAGER, 20).applies(seen())
    assert not measures.new_leader(SCHEDULER, 20).applies(seen())
    assert not measures.new_leader(MANAGER, 20).applies(replace(seen(), target=None))


def test_an_api_server_is_out_once_its_address_is_not_listed() -> None:
    measure = measures.out_of_endpoints(25)
    assert measure.seconds(seen(later(110))) is None
    assert measure.seconds(seen(later(110), later(118, api_servers=frozenset({"10.0.0.10"})))) == 18
    worker = LiveMachine(name="worker-0", roles=frozenset({Role.WORKER}), address="10.0.0.20")
    assert not measure.applies(replace(seen(), target=worker))


def test_a_node_that_is_only_still_called_ready_is_not_back() -> None:
    measure = measures.all_nodes_ready(120)
    stale = later(110)
    half = later(120, heard={"worker-0": 119, "worker-1": 96})
    back = later(130, heard={"worker-0": 129, "worker-1": 125})
    assert measure.seconds(seen(stale, half)) is None
    assert measure.seconds(seen(stale, half, back)) == 30


def test_what_was_to_break_and_did_not_is_no_success() -> None:
    """All machines off, and a client that never noticed: the client saw nothing."""
    measure = measures.back("API answers again in", measures.API_CLIENT, 60)
    good = [Sample(began=101, ended=102)]
    assert measure.seconds(seen(API_client=good)) is None
    assert measure.seconds(seen(API_client=[Sample(began=100, ended=101, error="refused"), *good])) == 2


def test_writes_that_hang_are_not_refused_clearly() -> None:
    measure = measures.refused_clearly(1)
    clear = Sample(began=110, ended=110.2, error=f"HTTP 500: etcdserver: mvcc: {measures.SPACE_EXCEEDED}")
    hanging = Sample(began=111, ended=112, error="timed out")
    assert measure.seconds(seen(API_writer=[clear])) == pytest.approx(0.2)
    assert measure.seconds(seen(API_writer=[clear, hanging])) is None
    assert measure.seconds(seen(API_writer=[])) is None


def test_writes_after_the_remedy_are_counted_from_its_beginning() -> None:
    measure = measures.writes_after_remedy(15)
    early, late = Sample(began=158, ended=159), Sample(began=163, ended=163.5)
    assert measure.seconds(seen(API_writer=[early])) is None
    assert measure.seconds(seen(API_writer=[early, late])) == pytest.approx(3.5)


def test_a_program_that_does_not_serve_again_has_no_number() -> None:
    measure = measures.served_again(15)
    assert measure.seconds(seen()) is None
    assert measure.seconds(replace(seen(), served=103.0)) == 3


def test_errors_are_counted_by_what_was_said() -> None:
    said = [Sample(began=1, ended=2, error=error) for error in ("refused", "", "timed out", "refused")]
    assert measures.errors(said) == {"refused": 2, "timed out": 1}
