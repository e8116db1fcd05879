"""The substrate `machines`: what it asks of hosts that exist already, and in which order."""

import hashlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from components.substrates.existing import plan
from config import trust
from unit.conftest import LABS, program
from unit.mocked_engine import Registered, Run, run_program

LOCAL, STEP = "command:local:Command", "command:remote:Command"
KEYS = ["ssh-ed25519 AAAAED", "ecdsa-sha2-nistp256 AAAAEC"]
HOSTS = {"10.246.0.11", "10.246.0.12", "10.246.0.13", "[10.246.0.14]:2222", "10.246.0.19"}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The lab that tests/labs/machines makes, its hosts trusted."""
    file = tmp_path_factory.mktemp("trust") / "own-test.known_hosts"
    file.write_text(trust.text_of({host: [f"{key}{host}" for key in KEYS] for host in HOSTS}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PULUMI_ERROR_OUTPUT_STRING", "1")
        patch.setattr(trust, "file_of", lambda stack: file)
        yield run_program("own-test", LABS["own-test"])


def command(own: Run, name: str) -> Registered:
    return own.named(name, LOCAL)


def words(text: str) -> list[str]:
    return shlex.split(text.splitlines()[-1])


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("machines-quorum", "machines-preflight"),
        ("machines-controller-0", "machines-preflight"),
        ("machines-controller-0", "machines-quorum"),
        ("machines-jumpbox-0", "machines-quorum"),
        ("machines-worker-1", "machines-jumpbox-0"),
        ("machines-worker-0-artifacts", "machines-worker-0"),
    ],
)
def test_what_comes_first(own: Run, later: str, earlier: str) -> None:
    assert earlier in own.before(command(own, later))


def test_hosts_are_entered_side_by_side(own: Run) -> None:
    assert "machines-worker-0" not in own.before(command(own, "machines-controller-0"))
    assert "machines-jumpbox-0" not in own.before(command(own, "machines-worker-0"))


def test_a_step_waits_until_its_host_has_the_artifacts(own: Run) -> None:
    assert "machines-worker-1-artifacts" in own.before(own.named("host-worker-1"))
    assert "machines-load-balancer-0" in own.before(own.named("host-load-balancer-0"))


def test_a_host_gets_exactly_the_files_that_its_steps_use(own: Run) -> None:
    for machine in own.outputs["machines"]:
        used = {
            line.split()[1].removeprefix("file:///var/lib/hardway/mirror/")
            for step in own.of_type(STEP)
            if own.machine_of(step)["name"] == machine["name"]
            for line in own.script(step.name).splitlines()
            if line.startswith(("fetch ", "import_image "))
        }
        name = f"machines-{machine['name']}-artifacts"
        sent = [each for each in own.of_type(LOCAL) if each.name == name]
        files = set(json.loads(words(sent[0].inputs["create"])[-1])) if sent else set()
        assert files == used, machine["name"]
        assert all(not PurePosixPath(file).is_absolute() and ".." not in file for file in files)


def test_the_official_clients_preferred_key_is_pinned(own: Run) -> None:
    connection = own.named("host-worker-1").inputs["connection"]
    assert connection["hostKey"] == "ecdsa-sha2-nistp256 AAAAEC10.246.0.13"
    assert connection["proxy"]["hostKey"] == "ecdsa-sha2-nistp256 AAAAEC10.246.0.19"
    assert (connection["proxy"]["host"], connection["proxy"]["user"]) == ("10.246.0.19", "root")
    assert own.named("host-load-balancer-0").inputs["connection"]["port"] == 2222


def test_another_host_key_is_another_machine(own: Run) -> None:
    pinned = " ".join(f"{key}10.246.0.11" for key in sorted(KEYS))
    assert f"({hashlib.sha256(pinned.encode()).hexdigest()[:12]})" in own.script("host-controller-0")


def test_every_command_says_what_it_does_without_a_secret_and_knows_its_way_back(own: Run) -> None:
    back = {"enter": "leave", "open-way": "close-way", "upload": "withdraw"}
    for each in own.of_type(LOCAL):
        if "-m components.substrates.existing" not in each.inputs.get("create", ""):
            continue
        line = words(each.inputs["create"])
        assert line[:3] == [".venv/bin/python", "-m", "components.substrates.existing"]
        plan.from_json(line[4])
        assert "stdin" in each.secret and "PRIVATE-KEY" not in each.inputs["create"]
        if line[3] in back:
            assert words(each.inputs["delete"])[3:5] == [back[line[3]], line[4]]
        else:
            assert line[3] == "preflight"


def test_the_plan_survives_its_way_through_a_command_line() -> None:
    jumpbox = plan.Login(host="gate", port=2200, user="me", host_keys=("ssh-ed25519 A",))
    login = plan.Login(host="10.0.0.1", port=22, user="root")
    host = plan.Host(name="a", roles=("worker",), login=login, jumpbox=jumpbox, address="10.0.0.1")
    whole = plan.Plan(stack="s", hosts=(host,), key="it's mine", shares_kernel=True, pods="10.1.0.0/16")
    assert plan.from_json(shlex.split(shlex.quote(whole.to_json()))[0]) == whole


def test_the_ssh_configuration_leads_through_the_jumpbox(own: Run) -> None:
    blocks: dict[str, Any] = dict(re.findall(r"^Host (\S+)\n((?:  .*\n)+)", own.outputs["ssh_config"], re.M))
    assert "  ProxyJump jumpbox-0\n" in blocks["worker-1"]
    assert "  IdentityFile " in blocks["jumpbox-0"] and "/.state/own-test/ssh_key" in blocks["jumpbox-0"]
    assert "  User admin\n" in blocks["worker-0"] and "  Port 2222\n" in blocks["load-balancer-0"]


def test_known_hosts_are_read_as_they_were_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.known_hosts"
    monkeypatch.setattr(trust, "file_of", lambda stack: file)
    assert trust.read("own") == {}
    file.write_text(trust.text_of({"10.0.0.1": KEYS, "[10.0.0.2]:2222": KEYS[:1]}))
    assert trust.read("own") == {"10.0.0.1": sorted(KEYS), "[10.0.0.2]:2222": KEYS[:1]}


def test_arm64_machines_have_artifacts_of_their_own() -> None:
    run = program("machines")
    sent = json.loads(words(command(run, "machines-worker-1-artifacts").inputs["create"])[-1])
    assert sent and all("arm64" in path for path in sent)
