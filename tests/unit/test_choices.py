"""Immutable settings: the texts of the commands, run by a real shell, and what the tool chain reads in the state."""

from collections.abc import Callable
from typing import Any

import pytest

from components import quorum
from components.immutable_settings import refuse
from config import choices
from config.settings import LabSettings
from toolchain import choices as made
from toolchain.errors import ToolchainError
from toolchain.stack import Stack
from unit.mocked_engine import Run
from unit.test_quorum import shell

DEFAULT = {
    "network.pods": "10.200.0.0/16",
    "network.services": "10.32.0.0/24",
    "network.cluster_domain": "cluster.local",
    "pki.algorithm": "ECDSA-P256",
}
KUBEADM = choices.choices_of(LabSettings.model_validate({"bootstrap": "kubeadm"}))


def of(**lab: Any) -> dict[str, str]:
    return choices.choices_of(LabSettings.model_validate(lab))


def older(made_with: dict[str, str], definition: str = "1") -> str:
    """What the guard of the quorum said in labs of earlier versions."""
    word = choices.as_word(made_with)
    return f"a{f'[{word}]' if word else ''} {definition}"


def ca(algorithm: str, *, rotated: str = "", **more: Any) -> dict[str, Any]:
    """The key of the Kubernetes CA as the state has it."""
    kind, _, size = algorithm.partition("-")
    inputs = {"algorithm": kind, **({"rsaBits": float(size)} if kind == "RSA" else {"ecdsaCurve": size})}
    urn = "urn:pulumi:lab::hardway::hardway:index:Pki$tls:index/privateKey:PrivateKey::pki-kubernetes-ca"
    return {"urn": urn + rotated, "inputs": inputs, "outputs": {}, **more}


def with_key(state: dict[str, Any], *keys: dict[str, Any]) -> dict[str, Any]:
    return {"deployment": {"resources": [*state["deployment"]["resources"], *keys]}}


def state(settings: dict[str, str]) -> dict[str, Any]:
    return of_resources({"machines-quorum": "a=1", "machines-settings": choices.written(settings)})


def older_state(settings: dict[str, str]) -> dict[str, Any]:
    return of_resources({"machines-quorum": older(settings)})


def of_resources(said: dict[str, str]) -> dict[str, Any]:
    urn = "urn:pulumi:lab::hardway::hardway:index:Containers$command:local:Command::"
    resources = [{"urn": urn + name, "outputs": {"stdout": text}} for name, text in said.items()]
    return {"deployment": {"resources": resources}}


def test_a_lab_of_defaults_has_only_what_is_recorded_later() -> None:
    assert of() == DEFAULT and choices.older(of()) == {} and choices.written({}) == "{}"
    assert made.made_with(state({})) == {}
    assert made.made_with(older_state({})) == {}


@pytest.mark.parametrize("in_state", [state, older_state])
@pytest.mark.parametrize("algorithm", ["ECDSA-P256", "ECDSA-P384", "RSA-2048", "RSA-4096"])
@pytest.mark.parametrize("rotated", ["", "-rotated-2"])
def test_a_lab_of_an_earlier_version_has_the_algorithm_of_its_ca(
    in_state: Callable[[dict[str, str]], dict[str, Any]], algorithm: str, rotated: str, dev_stack: Stack
) -> None:
    replaced = ca("ECDSA-P256" if algorithm != "ECDSA-P256" else "RSA-2048", delete=True)
    lab = with_key(in_state({}), replaced, ca(algorithm, rotated=rotated))
    assert made.made_with(lab) == {"pki.algorithm": algorithm}
    made.check(lab, _with(dev_stack, of(pki={"algorithm": algorithm})))
    for other in {"ECDSA-P256", "RSA-4096"} - {algorithm}:
        with pytest.raises(ToolchainError) as refused:
            made.check(lab, _with(dev_stack, of(pki={"algorithm": other})))
        says = f"  lab.pki.algorithm is {other}, and the lab was made with {algorithm}\n"
        assert says in str(refused.value) and "nothing was changed" in str(refused.value)


def test_what_the_lab_records_comes_before_its_ca(dev_stack: Stack) -> None:
    """As in a lab whose CA an earlier version replaced, and whose next `up` was refused."""
    assert made.made_with(with_key(state(DEFAULT), ca("RSA-2048"))) == DEFAULT


def test_what_an_earlier_version_did_not_record_is_not_compared(dev_stack: Stack) -> None:
    """The algorithm neither, where an `up` was killed before it made a CA."""
    made.check(state({}), _with(dev_stack, of(network={"services": "10.33.0.0/24"})))
    made.check(state({}), _with(dev_stack, of(pki={"algorithm": "RSA-2048"})))


def test_plain_pulumi_accepts_what_an_earlier_version_recorded() -> None:
    for chosen in (of(), of(pki={"algorithm": "RSA-2048", "subject": {"country": "GB"}})):
        done = shell(refuse(chosen), before=choices.written(choices.older(chosen)))
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, choices.written(chosen), "")
        done = shell(quorum.refuse("a=1", chosen), before=older(choices.older(chosen)))
        assert (done.returncode, done.stdout, done.stderr) == (0, "a=1\n", "")


@pytest.mark.parametrize("in_state", [state, older_state])
def test_what_is_written_can_be_read(in_state: Callable[[dict[str, str]], dict[str, Any]]) -> None:
    assert made.made_with(in_state(KUBEADM)) == KUBEADM


_OTHERS = [
    ({}, KUBEADM),
    (KUBEADM, {}),
    (KUBEADM, of(bootstrap="kubeadm", network={"services": "10.99.0.0/24"})),
    ({}, of(pki={"subject": {"country": "GB"}})),
]
_RECORDED_LATER = [
    (of(), of(network={"services": "10.33.0.0/24"})),
    (of(), of(network={"pods": "10.201.0.0/16"})),
    (of(), of(network={"cluster_domain": "other.local"})),
    (of(), of(pki={"algorithm": "RSA-2048"})),
    (of(pki={"algorithm": "RSA-2048"}), of()),
]


@pytest.mark.parametrize("insist", ["", "yes"])
@pytest.mark.parametrize(("before", "after"), [*_OTHERS, *_RECORDED_LATER])
def test_plain_pulumi_refuses_another_setting(before: dict[str, str], after: dict[str, str], insist: str) -> None:
    done = shell(refuse(after), before=choices.written(before), insist=insist)
    assert (done.returncode, done.stdout) == (1, "")
    assert "nothing was changed" in done.stderr
    for each in (before, after):
        assert f"\n{choices.written(each)}\n" in done.stderr


@pytest.mark.parametrize("insist", ["", "yes"])
@pytest.mark.parametrize(("before", "after"), _OTHERS)
def test_in_a_lab_of_an_earlier_version_the_guard_of_the_quorum_refuses_it(
    before: dict[str, str], after: dict[str, str], insist: str
) -> None:
    done = shell(quorum.refuse("a=1", after), before=older(before), insist=insist)
    assert (done.returncode, done.stdout) == (1, "")
    assert "this setting of a running lab is immutable" in done.stderr
    assert ("bootstrap=kubeadm" in done.stderr) or before == {}


@pytest.mark.parametrize("settings", [{}, KUBEADM])
def test_the_same_settings_pass(settings: dict[str, str]) -> None:
    done = shell(refuse(settings), before=choices.written(settings))
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, choices.written(settings), "")
    upgraded = shell(quorum.refuse("a=1", settings), before=older(settings))
    assert (upgraded.returncode, upgraded.stdout, upgraded.stderr) == (0, "a=1\n", "")


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
        (
            KUBEADM,
            of(bootstrap="kubeadm", network={"max_pods": 50}),
            "lab.network.max_pods is 50, and the lab was made with 110",
        ),
        (
            of(),
            of(network={"services": "10.33.0.0/24"}),
            "lab.network.services is 10.33.0.0/24, and the lab was made with 10.32.0.0/24",
        ),
        ({"network.pod_network": "other"}, {}, "lab.network.pod_network is routes, and the lab was made with other"),
    ],
)
def test_make_refuses_it_with_the_reason_and_the_way(
    before: dict[str, str], after: dict[str, str], says: str, dev_stack: Stack
) -> None:
    with pytest.raises(ToolchainError) as refused:
        made.check(state(before), _with(dev_stack, after))
    assert says in str(refused.value) and "./hardway destroy -s dev" in str(refused.value)
    assert str(refused.value).count("\n  ") == 1
    made.check(state(before), _with(dev_stack, before))


def test_where_there_is_no_lab_everything_may_be_chosen(dev_stack: Stack) -> None:
    nothing: dict[str, Any]
    for nothing in ({}, {"deployment": {}}, {"deployment": {"resources": []}}):
        made.check(nothing, _with(dev_stack, KUBEADM))


def test_what_the_program_registers_is_what_the_command_line_reads(kubeadm_lab: Run, dev: Run) -> None:
    for run in (kubeadm_lab, dev):
        resource = run.named("machines-settings", "command:local:Command")
        found = made.made_with(of_resources({"machines-settings": shell(str(resource.inputs["create"])).stdout}))
        assert found == made.made_with(
            of_resources(
                {"machines-settings": shell(str(resource.inputs["stdin"]), before=choices.written(found or {})).stdout}
            )
        )
        assert (found or {})["pki.algorithm"] == "ECDSA-P256"
        assert (found or {}).get("bootstrap") == ("kubeadm" if run is kubeadm_lab else None)


def test_the_settings_are_recorded_after_the_guard_and_before_everything_else(dev: Run) -> None:
    """In a lab of an earlier version the guard may refuse them."""
    recorded = dev.named("machines-settings", "command:local:Command")
    assert "machines-quorum" in dev.before(recorded)
    for name in ("machines-network", "machines-controller-0"):
        assert "machines-settings" in dev.before(dev.named(name, "command:local:Command"))


def test_the_stack_knows_its_choices() -> None:
    from toolchain import stack

    ranges = {"network.pods": "10.203.0.0/16", "network.services": "10.35.0.0/24"}
    calico = {"network.pod_network": "calico", "calico.datastore": "kubernetes", "calico.encapsulation": "vxlan"}
    assert stack.read("kubeadm").choices == KUBEADM | ranges | calico
    assert stack.read("dev").choices == DEFAULT


@pytest.fixture
def dev_stack() -> Stack:
    from toolchain import stack

    return stack.read("dev")


def _with(stack: Stack, wanted: dict[str, str]) -> Stack:
    from dataclasses import replace

    return replace(stack, choices=wanted)
