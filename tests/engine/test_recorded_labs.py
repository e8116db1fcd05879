"""A lab that an earlier commit made: the next `up` replaces nothing and deletes nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine import recorded_labs
from engine.recorded_labs import RecordedLab

_TEXT_OF_A_SCRIPT = {"create", "update", "delete", "stdin", "script"}
"""Inputs of commands, and of the component that shows a step's script in previews."""
_ADDED = {"encryption-keys", "machines-settings"}
"""Records in the state: keys that Secrets were encrypted with before, and the immutable settings."""
_STEPS_ADDED = re.compile(r"kubeadm-upgrade-\S+|(etcd|control-plane)-\S+-serving")
"""Steps that find nothing to do in a lab whose versions stay, and whose programs have been started."""
_COMPONENTS_ADDED = {"hardway:index:KubeadmUpgrade", "hardway:index:NodeRegistration"}
"""Components have nothing on a machine."""


def preview(lab: RecordedLab, pulumi: str, home: Path) -> dict[str, Any]:
    """What a preview by today's program says: the steps that are more than `same`, and the count of each kind."""
    output = recorded_labs.project_of(lab, pulumi, home).pulumi("preview", "--json", ok=True).output
    found: dict[str, Any] = json.loads(output[output.index("{\n") :])
    return found


def _is_added(urn: str) -> bool:
    *_, types, name = urn.split("::")
    return name in _ADDED or bool(_STEPS_ADDED.fullmatch(name)) or types.split("$")[-1] in _COMPONENTS_ADDED


def changed(step: dict[str, Any]) -> set[str]:
    """The names of the inputs that differ."""
    before, after = (_without_script(step[state].get("inputs", {})) for state in ("oldState", "newState"))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def _without_script(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs without the script that an interpreter begins with, where an update changes nothing by it."""
    words, update = inputs.get("interpreter", []), str(inputs.get("update"))
    changes_nothing = update == ":" or re.match(r"# container \S+ stays\n", update)
    if changes_nothing and words[:-1] == ["/bin/bash", "-c"]:
        return inputs | {"interpreter": words[:-1]}
    return inputs


@pytest.mark.parametrize("name", recorded_labs.names())
def test_nothing_of_a_running_lab_is_replaced_or_deleted(name: str, pulumi: str, tmp_path: Path) -> None:
    lab = recorded_labs.read(name)
    found = preview(lab, pulumi, tmp_path)
    steps, counted = found["steps"], found["changeSummary"]
    providers = [each for each in lab.state["deployment"]["resources"] if each["type"].startswith("pulumi:providers:")]
    kept = len(lab.state["deployment"]["resources"]) - len(providers)
    assert counted["same"] + counted.get("update", 0) == kept
    others = {step["urn"]: step["op"] for step in steps if step["op"] not in ("same", "update")}
    assert {urn: op for urn, op in others.items() if not _is_added(urn)} == {}
    assert set(others.values()) <= {"create"}
    for step in steps:
        if step["op"] == "update":
            assert changed(step) <= _TEXT_OF_A_SCRIPT, step["urn"]


def test_another_definition_of_a_machine_is_seen_as_a_replacement(pulumi: str, tmp_path: Path) -> None:
    lab = recorded_labs.read(recorded_labs.names()[0])
    lab.settings["containers"] = {**lab.settings.get("containers", {}), "image": "localhost/another:image"}
    assert preview(lab, pulumi, tmp_path)["changeSummary"]["replace"] > 0
