"""The rotation of a lab's SSH key: what each stage makes on each substrate, and what says whose the lab is."""

import subprocess
from typing import Any

import asyncssh
import pytest

from components.substrates.containers.owner import identity
from components.substrates.existing import entry, lab_keys, plan
from config import substrates
from config.fingerprint import fingerprint
from config.lab import parse
from config.problems import ConfigError
from lab.shipped import lab_of
from unit import mocked_engine
from unit.mocked_engine import Registered, Run, run_program

LOCAL = "command:local:Command"
KEY = "tls:index/privateKey:PrivateKey"
STACKS = ("dev", "libvirt", "gcp", "machines", "kubeadm")
STAGES = ("1 trusted", "1 used", "1")
FIRST, SECOND = "machines-ssh", "machines-ssh-rotated-1"
ACCEPTED = {"1 trusted": [FIRST, SECOND], "1 used": [SECOND, FIRST], "1": [SECOND]}


def at(stack: str, stage: Any) -> Run:
    return run_program(stack, lab_of(stack), rotations={"ssh": stage})


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], Run]:
    return {(stack, stage): at(stack, stage) for stack in STACKS for stage in STAGES}


def connections(run: Run) -> set[str]:
    return {step.inputs["connection"]["privateKey"] for step in run.of_type("command:remote:Command")}


@pytest.mark.parametrize("stack", STACKS)
def test_connections_use_the_new_key_from_the_second_stage_on(runs: dict[tuple[str, str], Run], stack: str) -> None:
    for stage, accepted in ACCEPTED.items():
        run = runs[stack, stage]
        active = f"PRIVATE-KEY-{accepted[0]}-openssh\n"
        assert connections(run) == {active} and run.outputs["ssh_private_key"] == active
        assert "ssh_private_key" in run.secret_outputs
        # The first key stays in the state: it is the lab's identity.
        keys = {key.name for key in run.of_type(KEY) if key.name.startswith(FIRST) and "host" not in key.name}
        assert keys == {FIRST, SECOND}


@pytest.mark.parametrize("stack", STACKS)
def test_every_change_of_a_key_comes_after_the_record_and_before_the_steps(
    runs: dict[tuple[str, str], Run], stack: str
) -> None:
    for stage in STAGES:
        run = runs[stack, stage]
        changes = [each for each in run.of_type(LOCAL) if each.name.endswith("-ssh-keys") or " enter " in script(each)]
        assert changes
        for each in changes:
            assert "rotation-record" in run.before(each), each.name
        if stage != "1 trusted":
            for step in run.of_type("command:remote:Command"):
                name = run.machine_of(step)["name"]
                before = run.before(step)
                assert {f"machines-{name}-ssh-keys", f"machines-{name}"} & before, step.name


def script(each: Registered) -> str:
    return str(each.inputs["create"])


@pytest.mark.parametrize("stack", ["dev", "libvirt", "gcp", "kubeadm"])
def test_a_machine_gets_the_keys_of_the_stage(runs: dict[tuple[str, str], Run], stack: str) -> None:
    for stage, accepted in ACCEPTED.items():
        run = runs[stack, stage]
        name = run.outputs["machines"][0]["name"]
        command = run.named(f"machines-{name}-ssh-keys", LOCAL)
        comment = f"hardway-{stack}:{mocked_engine.fingerprint(FIRST)}"
        lines = "\n".join(f"ssh-ed25519 PUBLIC-{key} {comment}" for key in accepted)
        assert f"wanted='{lines}'" in script(command)
        assert "PRIVATE" not in script(command)
        assert "stdin" in command.secret
        assert command.inputs["stdin"].split() == [f"PRIVATE-KEY-{key}-openssh" for key in (*accepted, FIRST)]


@pytest.mark.parametrize("stack", ["dev", "libvirt", "gcp"])
def test_no_machine_is_replaced_and_the_lab_keeps_its_identity(runs: dict[tuple[str, str], Run], stack: str) -> None:
    """A rotation that recreates machines, or after which the lab is another one."""
    before = run_program(stack, lab_of(stack))
    in_place = {"gcp:compute/instance:Instance": {"metadata"}, LOCAL: {"environment", "interpreter"}}
    for stage in STAGES:
        run = runs[stack, stage]
        for each in before.resources:
            if each.type == "command:remote:Command" or each.type == "hardway:index:Script":
                continue
            new = run.at(each.urn)
            changed = {key for key in {*each.inputs, *new.inputs} if each.inputs.get(key) != new.inputs.get(key)}
            if each.name.endswith("-login"):
                changed -= {"stdin"}
            if each.name.endswith("-versions"):
                continue
            assert changed <= in_place.get(each.type, set()), (stage, each.name)


def test_google_gets_the_keys_in_the_metadata(runs: dict[tuple[str, str], Run]) -> None:
    for stage, accepted in ACCEPTED.items():
        instance = runs["gcp", stage].of_type("gcp:compute/instance:Instance")[0]
        lines = instance.inputs["metadata"]["ssh-keys"].splitlines()
        assert [line.split()[1] for line in lines] == [f"PUBLIC-{key}" for key in accepted]
        assert all(line.startswith("root:ssh-ed25519 ") for line in lines)


@pytest.mark.parametrize("stage", ["1 used", "1"])
def test_a_container_that_is_made_after_a_rotation_never_accepts_the_first_key(
    runs: dict[tuple[str, str], Run], stage: str
) -> None:
    container = runs["dev", stage].named("machines-worker-0", LOCAL).inputs
    # The script is that of a running lab; here one that shows its input, and whose lab it is was found out.
    title, interpreter = container["create"].partition("\n")[0], container["interpreter"][-1]
    owner = interpreter.replace("/var/lib/hardway-labs", "/nonexistent").replace(
        '"${owner:-none}"', '"$HARDWAY_IDENTITY"'
    )
    done = subprocess.run(
        ["/bin/bash", "-c", owner, f'{title}\nIFS= read -r key; echo "[$key]"; cat'],
        input=container["stdin"],
        env={"PATH": "/usr/bin:/bin", **container["environment"]},
        capture_output=True,
        text=True,
        check=True,
    )
    comment = f"hardway-dev:{mocked_engine.fingerprint(FIRST)}"
    host_key = "PRIVATE-KEY-machines-worker-0-host-key-openssh"
    assert done.stdout == f"[ssh-ed25519 PUBLIC-{SECOND} {comment}]\n{host_key}"


def test_a_container_names_its_lab_behind_a_later_key() -> None:
    key, first = "ssh-ed25519 AAAA", "SHA256:first"
    assert identity(f"{key} hardway-dev:{first}") == first
    assert identity(f"{key} jane@desk") == identity(key) == fingerprint(key)
    assert identity(f"# {key} hardway-dev:{first}") == ""


# Existing hosts


def test_a_host_keeps_its_mark_when_the_key_is_another() -> None:
    first, second = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    private = [key.export_private_key("openssh").decode() for key in (second, first)]
    public = first.export_public_key().decode().strip()
    unrotated, rotated = private[1], plan.rotated_keys(f"{public} ignored", private)
    assert entry.mark("own", rotated, "worker-0") == entry.mark("own", unrotated, "worker-0")
    read = lab_keys.read(rotated)
    assert [lab_keys.public(key) for key in read.private] == [
        " ".join(key.export_public_key().decode().split()[:2]) for key in (second, first)
    ]
    assert lab_keys.read(unrotated).first is None


def test_commands_on_hosts_get_every_accepted_key_on_standard_input_alone(runs: dict[tuple[str, str], Run]) -> None:
    for stage, accepted in ACCEPTED.items():
        entered = [each for each in runs["machines", stage].of_type(LOCAL) if " enter " in script(each)]
        for each in entered:
            private = [f"PRIVATE-KEY-{key}-openssh" for key in accepted]
            assert each.inputs["stdin"].splitlines() == [*private, f"first ssh-ed25519 PUBLIC-{FIRST}"]
            assert "stdin" in each.secret and "PRIVATE" not in script(each)


# Refused


def test_a_substrate_that_cannot_change_the_key_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = substrates.SUBSTRATES["containers"]
    monkeypatch.setitem(substrates.SUBSTRATES, "containers", substrates.Traits(**{**vars(found), "rotates_ssh": False}))
    with pytest.raises(ConfigError, match="cannot change the SSH key of machines that exist") as error:
        parse("dev", lab_of("dev"), rotated={"ssh": "1 trusted"})
    assert error.value.problems[0].keys == ("rotations.ssh",)


@pytest.mark.parametrize("stack", ["dev", "libvirt"])
def test_in_the_first_stage_no_machine_and_no_step_depends_on_the_new_key(
    runs: dict[tuple[str, str], Run], stack: str
) -> None:
    """It is not known in a preview: all that depends on it is shown as changed."""
    run = runs[stack, "1 trusted"]
    named = {f"machines-{machine['name']}" for machine in run.outputs["machines"]}
    for each in run.resources:
        if each.type == "command:remote:Command" or each.name in named:
            assert SECOND not in run.before(each), each.name
