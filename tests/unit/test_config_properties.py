"""What holds for every configuration: a lab that is whole, or a report; never a crash."""

from ipaddress import IPv4Network
from itertools import combinations
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from config.lab import Lab, parse
from config.machines import MachineSettings, Role
from config.problems import ConfigError
from config.settings import LabSettings, Network, PkiSettings

KEYS = sorted(
    {key for model in (LabSettings, Network, PkiSettings, MachineSettings) for key in model.model_fields}
    | {"engine", "image", "kubernetes", "etcd", "typo", "int", "", "a.b", "a[0]"}
)
RANGES = st.one_of(
    st.builds(
        lambda address, prefix: str(IPv4Network((address, prefix), strict=False)),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.sampled_from(["10.240.0.1/24", "fd00::/64", "10.0.0.0", "0.0.0.0/0", "255.255.255.255/32", "10.240.0.0/24 "]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 12),
    st.sampled_from([-(10**18), 10**6, 10**18, 10**400]),
    st.floats(),
    st.text(max_size=8),
    RANGES,
    st.sampled_from(["worker-0", "worker-1", "containers", "podman", "1.36.4", "10.240.0.20"]),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)


@st.composite
def near_misses(draw: st.DrawFn) -> dict[str, Any]:
    """Documents of the right shape, whose values are right more often than not."""
    machine = st.fixed_dictionaries(
        {"name": st.sampled_from(["worker-0", "worker-1", "worker-2", "controller-0", "alpha"]) | SCALARS},
        optional={"address": st.sampled_from(["10.240.0.5", "10.240.0.30"]) | SCALARS, "pod_cidr": RANGES | SCALARS},
    )
    count = st.integers(0, 9) | st.lists(machine, max_size=4) | SCALARS
    network = st.fixed_dictionaries(
        {},
        optional={
            "nodes": RANGES | SCALARS,
            "pods": RANGES | SCALARS,
            "services": RANGES | SCALARS,
            "node_prefix": st.integers(14, 31) | SCALARS,
            "max_pods": st.integers(0, 600) | SCALARS,
            "domain": st.text("ab.-", max_size=6),
        },
    )
    hours = st.integers(-1, 100) | SCALARS
    pki = st.fixed_dictionaries(
        {}, optional={"validity_hours": hours, "ca_validity_hours": hours, "early_renewal_hours": hours}
    )
    return draw(
        st.fixed_dictionaries(
            {},
            optional={
                "controllers": count,
                "workers": count,
                "load_balancers": count,
                "network": network | DOCUMENTS,
                "pki": pki | DOCUMENTS,
                "versions": st.dictionaries(st.sampled_from(["kubernetes", "etcd", "x"]), SCALARS, max_size=2),
            },
        )
    )


@st.composite
def plausible(draw: st.DrawFn) -> dict[str, Any]:
    """Counts and ranges that nearly always make a lab."""
    nodes = IPv4Network((draw(st.integers(0, 2**16)) << 16, draw(st.integers(20, 26))), strict=False)
    return {
        "controllers": draw(st.sampled_from([1, 3, 5, 7])),
        "workers": draw(st.integers(1, 40)),
        "load_balancers": draw(st.sampled_from([1, 2])),
        "network": {
            "nodes": str(nodes),
            "pods": f"{draw(st.integers(11, 99))}.{draw(st.integers(0, 255))}.0.0/{draw(st.integers(16, 20))}",
            "services": "172.30.0.0/20",
            "node_prefix": draw(st.integers(20, 27)),
            "max_pods": 20,
        },
    }


def check(lab: Lab) -> None:
    """What every lab has."""
    network = lab.network
    assert len({machine.name for machine in lab.machines}) == len(lab.machines)
    assert len({machine.address for machine in lab.machines}) == len(lab.machines)
    taken = {network.nodes[0], network.nodes[-1], network.gateway}
    assert all(machine.address in network.nodes and machine.address not in taken for machine in lab.machines)
    ranges = []
    for machine in lab.machines:
        assert (machine.pod_cidr is not None) == (Role.WORKER in machine.roles)
        if machine.pod_cidr is not None:
            assert machine.pod_cidr.subnet_of(network.pods)
            assert machine.pod_cidr.num_addresses - 3 >= network.max_pods
            ranges.append(machine.pod_cidr)
    assert not any(one.overlaps(other) for one, other in combinations(ranges, 2))
    assert not any(
        one.overlaps(other) for one, other in combinations((network.nodes, network.pods, network.services), 2)
    )
    assert network.dns_service in network.services
    assert network.api_service in network.services
    assert len(lab.with_role(Role.CONTROLLER)) % 2 == 1
    assert lab.with_role(Role.WORKER)
    balancers = [machine.address for machine in lab.with_role(Role.LOAD_BALANCER)]
    assert len(balancers) in (1, 2)
    assert lab.api_address in network.nodes and lab.api_address not in taken
    # One has the address for itself; what two share is no machine's own.
    assert [machine.address for machine in lab.machines].count(lab.api_address) == (len(balancers) == 1)
    assert len(balancers) == 2 or lab.api_address == balancers[0]


def lab_or_report(document: Any, stack: str = "dev") -> None:
    try:
        lab = parse(stack, document)
    except ConfigError as error:
        assert error.problems
        assert all(problem.what and problem.fix and all(problem.keys) for problem in error.problems)
        assert len(set(error.problems)) == len(error.problems), "the same is said twice"
        assert all(str(problem) in str(error) for problem in error.problems)
    else:
        check(lab)


@given(document=DOCUMENTS)
def test_any_document_gives_a_lab_or_a_report(document: Any) -> None:
    lab_or_report(document)


@given(document=near_misses())
@example(
    document={"network": {"nodes": "255.255.255.255/32"}, "workers": [{"name": "a", "address": "255.255.255.255"}]}
)
@example(document={"network": {"nodes": "10.0.0.0/31"}, "controllers": [{"name": "a", "address": "10.0.0.1"}]})
@example(
    document={"network": {"nodes": "10.0.0.0/30"}, "load_balancers": [{"name": "a", "address": "10.0.0.2"}] * 2},
)
@example(document={"network": {"pods": "0.0.0.0/0"}})
@example(document={"workers": 10**400})
def test_a_document_of_the_right_shape_gives_a_lab_or_a_report(document: Any) -> None:
    lab_or_report(document)


@given(stack=st.text(max_size=30))
def test_any_stack_name_gives_a_lab_or_a_report(stack: str) -> None:
    lab_or_report({}, stack)


@given(document=plausible())
def test_machines_get_addresses_and_pod_ranges_of_their_own(document: dict[str, Any]) -> None:
    try:
        lab = parse("dev", document)
    except ConfigError as error:
        # Too many workers for the ranges, or ranges that meet: nothing else can be wrong with these.
        assert all("has no" in problem.what or "overlaps" in problem.what for problem in error.problems)
        return
    check(lab)
    assert len(lab.with_role(Role.WORKER)) == document["workers"]
    assert len(lab.with_role(Role.CONTROLLER)) == document["controllers"]


@given(
    workers=st.lists(
        st.tuples(st.integers(0, 300), st.integers(2, 254), st.integers(0, 255), st.integers(22, 26)),
        min_size=1,
        max_size=6,
    )
)
def test_overlapping_pod_ranges_never_pass(workers: list[tuple[int, int, int, int]]) -> None:
    document = {
        "workers": [
            {
                "name": f"w-{number}",
                "address": f"10.240.0.{address}",
                "pod_cidr": str(IPv4Network((f"10.200.{third}.0", prefix), strict=False)),
            }
            for number, address, third, prefix in workers
        ],
        "network": {"max_pods": 5},
    }
    ranges = [IPv4Network(worker["pod_cidr"]) for worker in document["workers"]]  # type: ignore[index]
    overlap = any(one.overlaps(other) for one, other in combinations(ranges, 2))
    try:
        check(parse("dev", document))
    except ConfigError as error:
        assert any("overlaps" in problem.what for problem in error.problems) == overlap
