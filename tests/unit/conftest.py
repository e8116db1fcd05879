"""What unit tests start from."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from config import trust
from config.lab import Lab
from unit.mocked_engine import Run, lab_of, run_program, shipped_stacks
from unit.node_tools import NodeTools, node_tools

# The same examples in every run, however busy the machine is.
settings.register_profile(
    "unit",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    max_examples=150,
    derandomize=True,
    database=None,
)
settings.load_profile("unit")

LABS = {
    **{stack: lab_of(stack) for stack in shipped_stacks()},
    "dedicated": {"controllers": 2, "etcd": "dedicated"},
    "terminating": {"load_balancing": {"mode": "terminate", "domain": "api.hardway.example"}},
    "shared": {"controllers": 3, "workers": 2, "load_balancers": 2},
    "calico-none": {"network": {"pod_network": "calico"}, "calico": {"encapsulation": "none"}},
    "calico-gcp": {"substrate": "gcp", "network": {"pod_network": "calico"}, "gcp": {"sources": ["192.0.2.0/24"]}},
    "kubeadm-ha": {"bootstrap": "kubeadm", "controllers": 3, "load_balancers": 2, "kubeadm": {"packages": "apt"}},
    "kubeadm-own": {"bootstrap": "kubeadm", "kubeadm": {"authorities": "kubeadm"}},
    "gcp-classic": {
        "substrate": "gcp",
        "etcd": "dedicated",
        "gcp": {"load_balancing": "classic", "sources": ["0.0.0.0/0"], "spot": True},
    },
}
"""Every stack that the project brings, and labs that none of them shows: dedicated etcd, TLS that ends at the balancer,
two balancers, Calico without encapsulation and with registries, Google Cloud's other kind of load balancer, and what
kubeadm may be told."""


@pytest.fixture(scope="session", autouse=True)
def no_output_in_a_string() -> Iterator[None]:
    """An Output that is put into a string is an error here; the engine would only write nonsense."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULUMI_ERROR_OUTPUT_STRING", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def nobody_is_trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No stack has pinned host keys, also while another process of the tests has such a lab."""
    nowhere = tmp_path_factory.mktemp("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "file_of", lambda stack: nowhere / f"{stack}.known_hosts")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_was_interrupted() -> Iterator[None]:
    """No stack has updates to run again, also while another process of the tests kills runs of such a lab."""
    nowhere = Path("/nonexistent/unfinished.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "unfinished_updates", property(lambda lab: nowhere))
        yield


@cache
def program(stack: str) -> Run:
    """The program's run for a lab, once."""
    return run_program(stack, LABS[stack])


@pytest.fixture(params=sorted(LABS))
def lab(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each lab in turn."""
    return program(request.param)


@pytest.fixture(params=sorted(stack for stack, lab in LABS.items() if lab.get("bootstrap") != "kubeadm"))
def hard_way(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each lab whose every program is a unit of its own."""
    return program(request.param)


@pytest.fixture(params=sorted(stack for stack, lab in LABS.items() if lab.get("bootstrap") == "kubeadm"))
def easy_way(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each lab that kubeadm makes."""
    return program(request.param)


@pytest.fixture(params=sorted(stack for stack, lab in LABS.items() if lab.get("substrate") != "gcp"))
def balanced(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each lab that has machines with HAProxy."""
    return program(request.param)


@pytest.fixture(params=sorted(set(LABS) - {"kubeadm-own"}))
def trusted(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each lab whose authorities the stack makes."""
    return program(request.param)


@pytest.fixture
def dev(no_output_in_a_string: None) -> Run:
    """The program, run for the default lab."""
    return program("dev")


@pytest.fixture
def ha(no_output_in_a_string: None) -> Run:
    """The program, run for three controllers and three workers."""
    return program("ha")


@pytest.fixture
def dedicated(no_output_in_a_string: None) -> Run:
    """The program, run for etcd on machines of its own."""
    return program("dedicated")


@pytest.fixture
def shared(no_output_in_a_string: None) -> Run:
    """The program, run for two load balancers that share an address."""
    return program("shared")


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeTools]:
    """haproxy, nginx, nft and systemd of the machines; they see what tests write to `tmp_path`."""
    with node_tools(tmp_path_factory.getbasetemp()) as found:
        yield found
