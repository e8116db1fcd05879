"""The critical path of an `up`: from states that are written here, and the output of one machine."""

import json
from typing import Any

import pytest

from live import critical_path
from live.critical_path import Seen
from live.drift import recorded
from toolchain import stack as stacks
from toolchain.errors import ToolchainError

_BEGAN = critical_path._time("2026-11-29T15:24:00.000Z")
_PREFIX = "urn:pulumi:dev::hardway::"


def _resource(name: str, at: float, *needs: str, custom: bool = True, **more: Any) -> dict[str, Any]:
    """A resource that was ready so many seconds after the beginning."""
    return {
        "urn": f"{_PREFIX}command:remote:Command::{name}",
        "type": "command:remote:Command",
        "custom": custom,
        "modified": f"2026-11-29T15:24:{at:012.9f}Z",
        "dependencies": [f"{_PREFIX}command:remote:Command::{each}" for each in needs],
        **more,
    }


def _step(name: str, machine: str, at: float, *needs: str, unit: str = "") -> dict[str, Any]:
    script = f"{{\n# {name} on {machine} (0)\n" + (f"unit {unit}\n" if unit else "") + "}; exit #\n"
    return _resource(f"{name}-{machine}", at, *needs, inputs={"stdin": script})


_STATE = {
    "deployment": {
        "resources": [
            _resource("component", 59, custom=False),
            _resource("machine", 3.5),
            _resource("key", 1.25),
            _step("etcd", "controller-0", 6, "machine", "key", unit="etcd.service"),
            _step("proxy", "load-balancer-0", 5, "machine"),
            _step("control-plane", "controller-0", 12.5, "etcd-controller-0", "proxy-load-balancer-0"),
            _resource("of-a-run-before", -0.0) | {"modified": "2026-11-28T10:00:00Z"},
            _resource("replaced", 20, delete=True),
        ]
    }
}


def _works() -> dict[str, critical_path.Work]:
    return critical_path.changed_between(_STATE, _BEGAN, _BEGAN + 60)


def test_the_path_goes_back_from_the_last_resource_along_what_was_ready_last() -> None:
    """A component, which is ready when its children are; a resource of another run; one that is being replaced."""
    assert [work.name for work in critical_path.path_of(_works())] == [
        "machine",
        "etcd-controller-0",
        "control-plane-controller-0",
    ]
    assert len(_works()) == 5
    assert critical_path.path_of({}) == []


def test_a_leg_begins_when_the_one_before_is_ready_and_has_what_its_machine_saw() -> None:
    """Times of a later run of the step, which say nothing about this one."""
    steps = {step.urn: step for step in recorded.steps(_STATE)}
    seen = Seen(
        scripts={"etcd": _BEGAN + 4, "control-plane": _BEGAN + 50},
        units={"etcd.service": _BEGAN + 4.75},
    )
    legs = list(
        critical_path.legs(
            critical_path.path_of(_works()),
            _BEGAN,
            steps,
            recorded.read(list(steps.values())),
            {"controller-0": seen},
        )
    )
    assert [(leg.could_begin, leg.script_began, leg.ready) for leg in legs] == [
        (0, None, 3.5),
        (3.5, 4, 6),
        (6, None, 12.5),
    ]
    assert [leg.units for leg in legs] == [{}, {"etcd.service": 4.75}, {}]
    assert sum(leg.takes for leg in legs) == 12.5


def test_a_machine_that_does_not_answer_leaves_the_times_of_the_state() -> None:
    """A report that fails as a whole where one machine is down."""
    steps = {step.urn: step for step in recorded.steps(_STATE)}
    path, units = critical_path.path_of(_works()), recorded.read(list(steps.values()))
    legs = list(critical_path.legs(path, _BEGAN, steps, units, {"controller-0": "no answer"}))
    assert [leg.script_began for leg in legs] == [None, None, None]
    found = critical_path.CriticalPath(
        stack="dev", began="2026-11-29T15:24:00+00:00", seconds=12.5, changed=5, legs=legs,
        not_asked={"controller-0": "no answer"},
    )  # fmt: skip
    said = critical_path.lines(found)
    assert "controller-0 could not be asked: no answer" in said
    assert said[-1].startswith("5 resources were made or changed in 12.5 s, from 2026-11-29T15:24:00 on; 3 of them")
    assert json.loads(found.json())["legs"][1]["takes"] == 2.5


def test_the_last_run_is_that_which_has_changed_something() -> None:
    """A second `up`, a `destroy` or an import that is taken for it."""
    runs: list[dict[str, Any]] = [
        {"kind": "update", "startTime": "2026-11-29T16:00:00.000Z", "endTime": "2026-11-29T16:00:03.000Z",
         "resourceChanges": {"same": 119}},
        {"kind": "resource-import", "startTime": "2026-11-29T15:50:00.000Z", "endTime": "2026-11-29T15:50:00.000Z"},
        {"kind": "update", "startTime": "2026-11-29T15:24:00.000Z", "endTime": "2026-11-29T15:24:49.000Z",
         "resourceChanges": {"create": 119}},
    ]  # fmt: skip
    assert critical_path.last_change(runs, stacks.read("dev")) == (_BEGAN, _BEGAN + 50)
    with pytest.raises(ToolchainError, match="No `up` that has changed the lab dev is on record"):
        critical_path.last_change(runs[:2], stacks.read("dev"))


def test_what_a_machine_prints_is_read_as_times() -> None:
    """A unit without a process, and an answer that was cut short."""
    said = (
        "now 1795965888.500000000 40000.25\n"
        "lock /var/lib/hardway/steps/etcd/lock 1795965857.604831486\n"
        "unit etcd.service 39970000000\n"
        "unit kubelet.service 0\n"
    )
    seen = critical_path.parse(said + "end\n")
    assert seen.scripts == {"etcd": 1795965857.604831486}
    assert seen.units == pytest.approx({"etcd.service": 1795965858.25})
    with pytest.raises(ValueError, match="not complete"):
        critical_path.parse(said)
