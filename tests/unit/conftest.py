"""What unit tests start from.

What takes long to import is imported where it is used: the process of pytest-xdist that runs no test reads
this file, too.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from lab.shipped import lab_of, shipped_stacks

if TYPE_CHECKING:
    from cli.recorded_program import Made
    from unit.mocked_engine import Run
    from unit.node_tools import NodeTools

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


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what is imported, and run rarely: it took a seventh of the time here."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


SHAPES = {
    "dev": lab_of("dev"),
    "ha": lab_of("ha"),
    "shared": {"controllers": 3, "workers": 2, "load_balancers": 2, "containers": {"engine": "docker"}},
    "dedicated": {
        "controllers": 2,
        "etcd": "dedicated",
        "network": {"pod_network": "calico"},
        "calico": {"encapsulation": "none"},
    },
    "libvirt": lab_of("libvirt"),
    "own-test": lab_of("own-test"),
    "droplets-test": lab_of("droplets-test"),
    "gcp": lab_of("gcp"),
    "gcp-classic": {
        "substrate": "gcp",
        "etcd": "dedicated",
        "network": {"pod_network": "calico"},
        "gcp": {"load_balancing": "classic", "sources": ["0.0.0.0/0"], "spot": True},
    },
    "kubeadm": lab_of("kubeadm"),
    "kubeadm-ha": {"bootstrap": "kubeadm", "controllers": 3, "load_balancers": 2, "kubeadm": {"packages": "apt"}},
    "kubeadm-own": {"bootstrap": "kubeadm", "kubeadm": {"authorities": "kubeadm"}},
    "kubeadm-external": {"bootstrap": "kubeadm", "controllers": 3, "kubeadm": {"authorities": "external"}},
}
"""A lab of each distinct shape: what is rendered for any other lab differs from one of these by counts, names,
addresses and versions alone. Every trait that changes what is rendered is in at least one of them: substrate, engine of
the containers, bootstrap method, one or more controllers, stacked or dedicated etcd, one or two load balancers, TLS at
the load balancer (droplets-test), Calico with each datastore and encapsulation, both load balancers of Google Cloud,
kubeadm's own CAs, its external CA mode and its packages. A new trait belongs here; a new stack of an existing shape
does not."""

LABS = {**{stack: lab_of(stack) for stack in shipped_stacks()}, **SHAPES}
"""The shapes, and every stack that the project brings, by name."""


@pytest.fixture(scope="session", autouse=True)
def no_output_in_a_string() -> Iterator[None]:
    """An Output that is put into a string is an error here; the engine would only write nonsense."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULUMI_ERROR_OUTPUT_STRING", "1")
        yield


@pytest.fixture(scope="session", autouse=True)
def nobody_is_trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No stack has pinned host keys, also while another process of the tests has such a lab."""
    from config import trust

    nowhere = tmp_path_factory.mktemp("trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trust, "file_of", lambda stack: nowhere / f"{stack}.known_hosts")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_was_interrupted() -> Iterator[None]:
    """No stack has updates to run again, also while another process of the tests kills runs of such a lab."""
    from config.lab import Lab

    nowhere = Path("/nonexistent/unfinished.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lab, "unfinished_updates", property(lambda lab: nowhere))
        yield


@cache
def program(stack: str) -> Run:
    """The program's run for a lab, once."""
    from unit.mocked_engine import run_program

    return run_program(stack, LABS[stack])


@cache
def recorded(stack: str) -> tuple[Made, ...]:
    """What `explain` finds of a stack, once."""
    from cli.recorded_program import record
    from toolchain.stack import read

    return tuple(record(read(stack)))


@pytest.fixture(params=SHAPES)
def lab(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each shape of lab in turn."""
    return program(request.param)


HARD_WAY = [stack for stack, lab in SHAPES.items() if lab.get("bootstrap") != "kubeadm"]


@pytest.fixture(params=HARD_WAY)
def hard_way(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each shape of lab whose every program is a unit of its own."""
    return program(request.param)


@pytest.fixture(params=[stack for stack in SHAPES if stack not in HARD_WAY])
def kubeadm_lab(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each shape of lab that kubeadm makes."""
    return program(request.param)


@pytest.fixture(params=[stack for stack, lab in SHAPES.items() if lab.get("substrate") != "gcp"])
def balanced(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each shape of lab that has machines with HAProxy."""
    return program(request.param)


@pytest.fixture(params=[stack for stack in SHAPES if stack != "kubeadm-own"])
def trusted(request: pytest.FixtureRequest, no_output_in_a_string: None) -> Run:
    """The program, run for each shape of lab whose CAs the stack makes."""
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
    from unit.node_tools import node_tools

    with node_tools(tmp_path_factory.getbasetemp()) as found:
        yield found
