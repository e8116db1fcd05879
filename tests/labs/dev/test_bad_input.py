"""Bad input to the real commands, on an empty stack: one clear report, and the host as it was."""

import subprocess
from collections.abc import Iterator

import pytest

from config import lab as config
from lab import footprint
from lab.commands import toolchain
from lab.settings_file import lab_settings

pytestmark = pytest.mark.usefixtures("empty_stack")
_CLASH = "hardway-clash"


@pytest.fixture
def unchanged(settings: config.Lab) -> Iterator[None]:
    """Nothing of the lab is on the host after the test that was not there before."""
    before = footprint.of_lab(settings)
    yield
    assert footprint.of_lab(settings) == before


@pytest.fixture
def conflicting_network(settings: config.Lab) -> Iterator[str]:
    """Another network on the host, in the middle of the machines' range."""
    subnet = str(list(settings.network.nodes.subnets(new_prefix=26))[1])
    footprint.podman("network", "create", "--subnet", subnet, _CLASH)
    yield subnet
    footprint.podman("network", "rm", _CLASH)


@pytest.fixture
def conflicting_route(settings: config.Lab) -> Iterator[str]:
    """A route of the host, as of a VPN, in the middle of the pods' range."""
    subnet = str(list(settings.network.pods.subnets(new_prefix=24))[7])
    subprocess.run(["ip", "route", "add", subnet, "dev", "lo"], check=True)
    yield subnet
    subprocess.run(["ip", "route", "del", subnet, "dev", "lo"], check=True)


@pytest.mark.usefixtures("unchanged")
def test_an_unknown_key_is_refused() -> None:
    """A misspelt key that is silently ignored: the user would get a lab that was not asked for."""
    with lab_settings(wokers=3):
        up = toolchain("up")
    assert up.code != 0
    assert "lab.wokers" in up.output
    assert "Traceback" not in up.output, up.output


@pytest.mark.usefixtures("unchanged")
def test_all_that_is_wrong_is_reported_at_once(settings: config.Lab) -> None:
    """A report that stops at the first problem, or a lab with overlapping ranges or an etcd that cannot vote."""
    with lab_settings(controllers=2, network={"services": str(settings.network.pods)}):
        up = toolchain("up")
    assert up.code != 0
    assert "lab.controllers" in up.output
    assert "lab.network.services" in up.output
    assert "2 problems" in up.output, up.output


def test_range_in_use_on_the_pulumi_host_is_refused(
    conflicting_network: str, conflicting_route: str, unchanged: None, settings: config.Lab
) -> None:
    """A lab whose addresses are another's: its machines, or the other network, would not be reached any more."""
    up = toolchain("up")
    assert up.code != 0
    assert f"{settings.network.nodes} overlaps {conflicting_network}" in up.output, up.output
    assert f"{settings.network.pods} overlaps {conflicting_route}" in up.output, up.output
    assert "nothing was changed" in up.output
