"""What a lab was made with stays: the guard's text, run by a real shell, and what `make` reads from the state."""

from typing import Any

import pytest

from components.quorum import refuse
from config import choices
from config.settings import LabSettings
from toolchain import choices as made
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from unit.conftest import program
from unit.mocked_engine import Run
from unit.test_quorum import shell

KUBEADM = choices.choices_of(LabSettings.model_validate({"bootstrap": "kubeadm"}))


def of(**lab: Any) -> dict[str, str]:
    return choices.choices_of(LabSettings.model_validate(lab))


def members(wanted: dict[str, str], definition: str = "1") -> str:
    word = choices.written(wanted)
    return f"a{f'[{word}]' if word else ''} {definition}"


def state(said: str) -> dict[str, Any]:
    urn = "urn:pulumi:lab::hardway::hardway:index:Containers$command:local:Command::machines-quorum"
    return {"deployment": {"resources": [{"urn": urn, "outputs": {"stdout": said}}]}}


def test_a_lab_of_defaults_says_nothing_of_them() -> None:
    assert of() == {} and choices.written({}) == ""
    assert members({}) == "a 1"


def test_what_is_written_can_be_read() -> None:
    assert choices.read(choices.written(KUBEADM)) == KUBEADM
    assert " " not in choices.written(KUBEADM)


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, KUBEADM), (KUBEADM, {}), (KUBEADM, of(bootstrap="kubeadm", network={"services": "10.99.0.0/24"}))],
)
def test_plain_pulumi_refuses_another_choice(before: dict[str, str], after: dict[str, str]) -> None:
    done = shell(refuse(members(after), choices.written(after)), before=members(before))
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert ("bootstrap=kubeadm" in done.stderr) or before == {}


def test_no_insisting_makes_a_lab_another_one() -> None:
    done = shell(refuse(members(KUBEADM), choices.written(KUBEADM)), before=members({}), insist="yes")
    assert done.returncode == 1 and "bootstrap=kubeadm" in done.stderr


def test_the_same_choice_passes() -> None:
    done = shell(refuse(members(KUBEADM), choices.written(KUBEADM)), before=members(KUBEADM))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({}, KUBEADM, "lab.bootstrap is kubeadm, and the lab was made with hard-way"),
        (KUBEADM, {}, "lab.bootstrap is hard-way, and the lab was made with kubeadm"),
        (
            KUBEADM,
            of(bootstrap="kubeadm", kubeadm={"authorities": "kubeadm"}),
            "lab.kubeadm.authorities is kubeadm, and the lab was made with stack",
        ),
        ({"network.pod_network": "other"}, {}, "lab.network.pod_network is routes, and the lab was made with other"),
    ],
)
def test_make_refuses_it_with_the_reason_and_the_way(
    before: dict[str, str], after: dict[str, str], says: str, dev_stack: Stack
) -> None:
    with pytest.raises(ToolchainError) as refused:
        made.check(state(members(before)), _with(dev_stack, after))
    assert says in str(refused.value) and "./hardway destroy -s dev" in str(refused.value)
    assert str(refused.value).count("\n  ") == 1
    made.check(state(members(before)), _with(dev_stack, before))


def test_where_there_is_no_lab_everything_may_be_chosen(dev_stack: Stack) -> None:
    nothing: dict[str, Any]
    for nothing in ({}, {"deployment": {}}, {"deployment": {"resources": []}}):
        made.check(nothing, _with(dev_stack, KUBEADM))


def test_what_the_program_registers_is_what_make_reads(kubeadm_lab: Run, dev: Run) -> None:
    for run in (kubeadm_lab, dev):
        guard = run.named("machines-quorum", "command:local:Command")
        said = shell(str(guard.inputs["create"])).stdout
        found = made.made_with(state(said))
        assert (found or {}).get("bootstrap") == ("kubeadm" if run is kubeadm_lab else None)


def test_the_stack_knows_its_choices() -> None:
    from toolchain import stack

    ranges = {"network.pods": "10.203.0.0/16", "network.services": "10.35.0.0/24"}
    calico = {"network.pod_network": "calico", "calico.datastore": "kubernetes", "calico.encapsulation": "vxlan"}
    assert stack.read("kubeadm").choices == KUBEADM | ranges | calico
    assert stack.read("dev").choices == {}
    assert program("dev").named("machines-quorum", "command:local:Command")


@pytest.fixture
def dev_stack() -> Stack:
    from toolchain import stack

    return stack.read("dev")


def _with(stack: Stack, wanted: dict[str, str]) -> Stack:
    from dataclasses import replace

    return replace(stack, choices=wanted)
