"""A lab that is stopped and started: nothing runs in between, and nothing is to be changed afterwards."""

from pathlib import Path

import pytest

from lab.commands import STACK, live, toolchain
from lab.footprint import running
from lab.workload import Workload


@pytest.fixture(scope="module")
def pods(workload: Workload) -> set[str]:
    """The pods before the lab is stopped."""
    return {pod.name for pod in workload.web}


def test_a_stopped_lab_runs_nothing_and_says_how_to_start_it(workload: Workload, pods: set[str]) -> None:
    """Machines that still run, or a command that waits for machines which do not answer."""
    ran = toolchain("stop")
    assert ran.code == 0, ran.output
    assert running(STACK) == set()
    assert not list(Path("/etc/systemd/system/multi-user.target.wants").glob(f"hardway-{STACK}.service"))
    for command in (["status"], ["kubectl", "get", "nodes"], ["ssh", workload.cluster.controller.name, "--", "true"]):
        ran = live(*command)
        assert ran.code == 1, ran.output
        assert ran.output.startswith(f"error: The lab {STACK} is stopped, since "), ran.output
        assert ran.output.endswith(f"`./hardway start -s {STACK}`.\n"), ran.output


def test_a_started_lab_is_as_it_was(workload: Workload, pods: set[str]) -> None:
    """A `start` that ends before the lab works, or a lab that `up` would change after it."""
    ran = toolchain("start")
    assert ran.code == 0, ran.output
    status = live("status")
    assert status.code == 0, status.output
    preview = toolchain("preview")
    assert preview.summary.keys() == {"unchanged"}, preview.output
    workload.wait_until_ready()
    assert pods and {pod.name for pod in workload.web} == pods
