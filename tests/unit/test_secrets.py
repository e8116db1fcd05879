"""No key leaves its place: not into a command, not into a log, not into plain state."""

import base64

import pytest

from components.kubeadm_pki import join_token
from unit.mocked_engine import COMMANDS, Run, ed25519_pem, seed_of

KEY = "tls:index/privateKey:PrivateKey"


def every_form(name: str) -> list[str]:
    """A private key as text, in base64 (kubeconfigs, standard input), and its bare bytes in base64."""
    texts = [f"PRIVATE-KEY-{name}", ed25519_pem(name), f"PRIVATE-KEY-{name}-openssh\n"]
    body = "".join(ed25519_pem(name).splitlines()[1:-1])
    encoded = [base64.b64encode(text.encode()).decode() for text in texts]
    return [*texts, *encoded, body, base64.b64encode(seed_of(name)).decode()]


@pytest.fixture
def secrets(lab: Run) -> list[str]:
    keys = [key.name for key in lab.of_type(KEY)]
    # What machines join with, as it is and in base64.
    tokens = [join_token(ed25519_pem(name)) for name in keys if name == "pki-join-token"]
    # Wherever it begins in a file: of the ends, other letters decide, too.
    encoded = [base64.b64encode(b" " * shift + token.encode()).decode()[4:-4] for token in tokens for shift in range(3)]
    return [*(form for name in keys for form in every_form(name)), *tokens, *encoded]


def holds(text: str, secrets: list[str]) -> list[str]:
    return [secret for secret in secrets if secret in text]


def test_search_finds_a_key_on_standard_input(lab: Run, secrets: list[str]) -> None:
    step = lab.named(_keeper(lab))
    assert holds(step.inputs["stdin"], secrets), "standard input is where the keys travel"


def _keeper(lab: Run) -> str:
    """The step that brings a controller its keys."""
    names = {"control-plane-controller-0", "kubeadm-controller-0"} & {step.name for step in lab.of_type(*COMMANDS)}
    return names.pop()


def test_no_command_contains_a_key(lab: Run, secrets: list[str]) -> None:
    for command in lab.of_type(*COMMANDS):
        for part in ("create", "update", "delete", "environment", "interpreter", "dir"):
            assert not holds(str(command.inputs.get(part, "")), secrets), f"{command.name}: {part}"
            # A script marked secret would hide every change of a flag in a preview.
            assert part not in command.secret, f"{command.name}: {part}"


def test_plain_state_holds_no_key(lab: Run, secrets: list[str]) -> None:
    for resource in lab.resources:
        for name, value in resource.inputs.items():
            if name not in resource.secret:
                assert not holds(str(value), secrets), f"{resource.name}: {name}"


def test_commands_with_keys_are_secret_and_log_nothing(lab: Run, secrets: list[str]) -> None:
    carriers = [each for each in lab.of_type(*COMMANDS) if holds(each.inputs.get("stdin", ""), secrets)]
    names = {carrier.name for carrier in carriers}
    joining = {"kubeadm-worker-0", "kubeadm-admission"}
    assert (joining if _keeper(lab) == "kubeadm-controller-0" else {lab.etcd_step, "worker-0-node"}) <= names
    assert _keeper(lab) in names
    by_cloud_init = [each.name for each in lab.of_type("libvirt:index/cloudInitDisk:CloudInitDisk")]
    assert {"machines-worker-0", "machines-worker-0-login"} & names or "machines-worker-0-cloud-init" in by_cloud_init
    for carrier in carriers:
        assert "stdin" in carrier.secret, carrier.name
        assert carrier.inputs["logging"] == "none", carrier.name
        if carrier.type == "command:remote:Command":
            assert {"stdout", "stderr"} <= set(carrier.request.additionalSecretOutputs), carrier.name


def test_files_with_keys_are_written_from_standard_input(lab: Run) -> None:
    for step in lab.of_type("command:remote:Command"):
        for line in step.script.splitlines():
            if line.startswith("file "):
                path = line.split()[1]
                assert not path.endswith((".key", ".kubeconfig", "encryption.yaml")), f"{step.name}: {path}"


def test_exports_with_keys_are_secret(lab: Run, secrets: list[str]) -> None:
    for name, value in lab.outputs.items():
        if name not in lab.secret_outputs:
            assert not holds(str(value), secrets), name
