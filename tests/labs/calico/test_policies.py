"""Policies are enforced: every flow is seen open, closed by the one, and opened again by the other."""

from collections.abc import Iterator

import pytest

from config.rotations import SUBJECTS
from lab import policies
from lab.commands import toolchain
from lab.flows import Flows
from lab.workload import NAMESPACE, PORT, WEB, Workload


@pytest.fixture
def flows(workload: Workload) -> Iterator[Flows]:
    """Who reaches whom; without any policy before and after."""
    flows = Flows(workload=workload)
    yield flows
    flows.unlabel()
    workload.cluster.kubectl("delete", "networkpolicies", "--all", "--namespace", NAMESPACE)


def test_default_deny_closes_everything_and_its_end_opens_it(flows: Flows) -> None:
    """Policies that are taken, and enforced by nobody."""
    flows.are_open("web", "dns", "api")
    flows.apply(policies.default_deny())
    flows.are_closed("web", "dns", "api")
    flows.drop("default-deny")
    flows.are_open("web", "dns", "api")


def test_allow_dns_opens_names_alone(flows: Flows) -> None:
    flows.apply(policies.default_deny())
    flows.are_closed("dns", "web")
    flows.apply(policies.allow_dns())
    flows.are_open("dns")
    flows.are_closed("web")


def test_policy_by_label_allows_connections(flows: Flows) -> None:
    """A policy that lets everybody in, or nobody."""
    flows.apply(policies.default_deny(), *policies.allow_by_label())
    flows.are_closed("web")
    flows.label()
    flows.are_open("web")
    # The other pod has no label.
    flows.are_closed("web from another")
    flows.unlabel()
    flows.are_closed("web")


def test_egress_to_a_range_opens_that_range(flows: Flows) -> None:
    """Ranges that are ignored, or taken for the world."""
    flows.label()
    flows.apply(policies.default_deny())
    flows.are_closed("api", "balancer")
    flows.apply(policies.allow_range(f"{flows.workload.cluster.controller.address}/32"))
    flows.are_open("api")
    flows.are_closed("balancer")
    flows.apply(policies.allow_range(str(flows.workload.cluster.settings.network.nodes)))
    flows.are_open("api", "balancer")


def test_health_checks_of_kubelets_pass_every_policy(flows: Flows) -> None:
    """A default deny that closes pods to their own worker, and so ends them."""
    flows.apply(policies.default_deny())
    flows.are_closed("web")
    for pod in flows.workload.web:
        at = f"http://{pod.address}:{PORT}/healthz"
        flows.workload.cluster.ssh(pod.node, f"curl -sS --fail --max-time 5 {at}")


@pytest.mark.long
def test_policies_are_enforced_after_a_rotation_of_every_key(flows: Flows) -> None:
    """Felix, Typha or the CNI plugin with a certificate or a CA of before: what was enforced stays, nothing new is."""
    workload = flows.workload
    flows.apply(policies.default_deny())
    flows.are_closed("web", "dns", "api")
    before = {pod.name for pod in workload.web}

    rotated = toolchain("rotate", *SUBJECTS, stack=workload.cluster.settings.name)
    assert rotated.code == 0, rotated.output

    assert {pod.name for pod in workload.web} == before
    flows.are_closed("web", "dns", "api")
    flows.drop("default-deny")
    flows.are_open("web", "dns", "api")
    workload.cluster.kubectl("delete", "pods", "--namespace", NAMESPACE, "--selector", f"app={WEB}")
    workload.wait_until_ready()
    assert not {pod.name for pod in workload.web} & before
    flows.are_open("web")
    flows.apply(policies.default_deny())
    flows.are_closed("web", "dns", "api")
