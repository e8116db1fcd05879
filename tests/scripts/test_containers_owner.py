"""Whose lab has a name on a host: with an engine that has what a test says, and the substrate's own scripts."""

import io
import json
import os
import subprocess
import sys
import tarfile
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from components.substrates.containers.owner import IDENTITY, REMOVES, of_owner, owners_interpreter
from components.substrates.containers.substrate import delete_container
from config.fingerprint import fingerprint
from toolchain import paths
from unit.mocked_engine import Run

PROGRAM = paths.checkout() / "components" / "substrates" / "containers" / "owner.py"
MINE, THEIRS = (f"ssh-ed25519 {b64encode(name).decode()}" for name in (b"the key of this state", b"another key"))
NAMES = ("hardway-dev-controller-0", "hardway-dev-worker-0")

FAKE = """#!{python}
import base64, json, pathlib, sys
has = json.loads(pathlib.Path(__file__).with_name("has.json").read_text())
match sys.argv[1:]:
    case ["ps", *_]:
        if has["answers"]:
            print("\\n".join(has["labelled"]))
        else:
            sys.exit("the engine is broken")
    case ["network", "ls", *_]:
        print("\\n".join(has["networks"]))
    case ["inspect", "-f", _, name]:
        print("created" if name in has["half_made"] else "running")
    case ["cp", path, "-"] if (name := path.split(":")[0]) in has["keys"]:
        sys.stdout.buffer.write(base64.b64decode(has["keys"][name]))
    case _:
        sys.exit("unexpected: " + " ".join(sys.argv))
"""


@dataclass
class Host:
    """What the engine of a host has."""

    directory: Path
    keys: dict[str, str] = field(default_factory=dict)
    labelled: Sequence[str] = ()
    half_made: Sequence[str] = ()
    networks: Sequence[str] = ("podman",)
    answers: bool = True

    @property
    def record(self) -> Path:
        return self.directory / "records" / "dev"

    def has_lab(self, key: str) -> None:
        """Have a whole lab, whose containers have this key."""
        self.labelled, self.networks = NAMES, ("podman", "hardway-dev")
        self.keys = dict.fromkeys(NAMES, key)

    def ask(self, key: str, *more: str) -> str:
        """The refusal for a lab with this key; nothing where its name is free or its own."""
        tools = self.directory / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "podman").write_text(FAKE.format(python=sys.executable))
        (tools / "podman").chmod(0o755)
        has = {
            "labelled": self.labelled,
            "half_made": self.half_made,
            "networks": self.networks,
            "answers": self.answers,
            "keys": {name: b64encode(_archive(key)).decode() for name, key in self.keys.items()},
        }
        (tools / "has.json").write_text(json.dumps(has))
        options = ["--lab", "dev", "--engine", "podman", "--key", key, "--records", str(self.record.parent)]
        done = subprocess.run(
            [sys.executable, str(PROGRAM), *options, *more],
            env={"PATH": str(tools)},
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.stderr == "", done.stderr
        assert done.returncode == (1 if done.stdout else 0)
        return done.stdout


def _archive(key: str) -> bytes:
    """What the engine copies: a tar archive with the file of keys."""
    content = f"# mine\n{key}{'' if ' hardway-' in key else ' lab'}\n".encode()
    entry = tarfile.TarInfo("authorized_keys")
    entry.size = len(content)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_identity_is_what_ssh_keygen_prints(tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    said = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key"], capture_output=True, text=True, check=True)
    assert fingerprint((tmp_path / "key.pub").read_text()) == said.stdout.split()[1]
    assert fingerprint("nonsense") == fingerprint("ssh-ed25519 ?") == ""


def test_a_rotated_key_is_that_of_the_lab_whose_first_key_is_behind_it(host: Host) -> None:
    """A rotation after which the lab is another's for itself, or its own for another."""
    host.has_lab(f"{THEIRS} hardway-dev:{fingerprint(MINE)}")
    assert host.ask(MINE, "--begun") == ""
    assert fingerprint(MINE) in host.ask(THEIRS, "--begun")
    # Who has the key that opens the machines now may stop and start them.
    assert host.ask(THEIRS, "--begun", "--in-use") == ""
    third = f"ssh-ed25519 {b64encode(b'a third key').decode()}"
    assert fingerprint(MINE) in host.ask(third, "--begun", "--in-use")


def test_a_free_name_is_taken(host: Host) -> None:
    assert host.ask(MINE) == ""
    assert not host.record.exists()
    assert host.ask(MINE, "--take") == ""
    assert host.record.read_text() == f"{fingerprint(MINE)} podman {host.directory}\n"


def test_a_second_checkout_is_refused_and_told_how_to_go_on(host: Host) -> None:
    host.has_lab(THEIRS)
    host.ask(THEIRS, "--take", "--begun")
    before = host.record.read_text()
    said = host.ask(MINE, "--take")
    assert f"podman has the containers {', '.join(NAMES)} and the network" in said
    assert f"Its key is {fingerprint(THEIRS)}, and it was made from {host.directory}" in said
    for way in ("./hardway destroy -s dev", "adopt it", "another name", f"podman rm -f -v {' '.join(NAMES)} && podman"):
        assert way in said
    assert host.record.read_text() == before


@pytest.mark.parametrize("begun", [[], ["--begun"]])
def test_a_lab_of_an_earlier_version_is_its_own_states_alone(host: Host, begun: list[str]) -> None:
    host.has_lab(THEIRS)
    assert fingerprint(THEIRS) in host.ask(MINE, "--take", *begun)
    assert not host.record.exists()
    assert host.ask(THEIRS, "--take", *begun) == ""
    assert host.record.read_text().startswith(fingerprint(THEIRS))


def test_what_carries_no_identity_is_refused(host: Host) -> None:
    """A network alone, and containers without a key."""
    host.networks = ("hardway-dev",)
    assert "Its key is unknown" in host.ask(MINE)
    host.networks, host.labelled = (), NAMES
    assert "Its key is unknown" in host.ask(MINE)
    assert "Its key is unknown" in host.ask(MINE, "--begun"), "these run"


def test_what_a_killed_run_has_left_is_the_labs_own(host: Host) -> None:
    host.ask(MINE, "--take")
    host.has_lab(MINE)
    del host.keys[NAMES[1]]
    host.half_made = NAMES[1:]
    assert host.ask(MINE) == ""
    assert fingerprint(MINE) in host.ask(THEIRS)


def test_what_a_killed_run_of_an_earlier_version_has_left(host: Host) -> None:
    host.networks = ("hardway-dev",)
    assert host.ask(MINE, "--begun") == ""
    host.has_lab(MINE)
    host.half_made = NAMES[1:]
    del host.keys[NAMES[1]]
    assert host.ask(MINE, "--begun") == ""
    host.half_made = ()
    assert "Its key is unknown" in host.ask(MINE, "--begun"), "it runs, and has no key of this lab"


def test_a_name_whose_lab_is_gone_is_free(host: Host) -> None:
    host.ask(THEIRS, "--take")
    assert host.ask(MINE, "--take") == ""
    assert host.record.read_text().startswith(fingerprint(MINE))


def test_another_labs_containers_below_the_own_record(host: Host) -> None:
    """An earlier version in another checkout has made them again."""
    host.ask(MINE, "--take")
    host.has_lab(THEIRS)
    assert fingerprint(THEIRS) in host.ask(MINE)


def test_a_query_that_fails_is_no_answer(host: Host) -> None:
    host.answers = False
    assert "podman does not work or is not permitted: the engine is broken" in host.ask(MINE, "--take")
    assert not host.record.exists()


def test_a_damaged_record_is_reported(host: Host) -> None:
    host.record.parent.mkdir()
    host.record.write_bytes(b"\0" * 60)
    assert "is damaged" in host.ask(MINE, "--take")


@dataclass
class Scripts:
    """Scripts of the substrate, run as the command provider runs them."""

    directory: Path

    def recorded(self, key: str | None) -> None:
        """Have a record of the lab with this key, or none."""
        file = self.directory / "dev"
        file.unlink(missing_ok=True)
        if key:
            file.write_text(f"{fingerprint(key)} podman /some where\n")

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the lab with the key `MINE`."""
        interpreter = owners_interpreter("dev", str(self.directory))
        return subprocess.run(
            [*interpreter, script],
            input="keys\n",
            env=os.environ | {IDENTITY: fingerprint(MINE)} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


def test_what_makes_something_runs_for_the_recorded_lab_alone(scripts: Scripts, tmp_path: Path) -> None:
    script = f"# container x\nset -eu\nread -r keys\necho $keys >>'{tmp_path / 'made'}'\necho the-id"
    for other in (None, THEIRS):
        scripts.recorded(other)
        done = scripts.run(script)
        assert done.returncode == 1
        assert "Refused: on this host the name hardway-dev is not the lab of this state" in done.stderr
        assert (fingerprint(other) if other else "no key") in done.stderr
        assert not (tmp_path / "made").exists()
    scripts.recorded(MINE)
    done = scripts.run(script)
    assert (done.returncode, done.stdout) == (0, "the-id\n"), done.stderr
    assert (tmp_path / "made").read_text() == "keys\n", "standard input reaches it"


@pytest.mark.parametrize("other", [None, THEIRS])
def test_a_removal_spares_what_is_another_labs(scripts: Scripts, tmp_path: Path, other: str | None) -> None:
    removal = of_owner(f"{REMOVES}network x\nset -eu\ntouch '{tmp_path / 'gone'}'", "dev", str(tmp_path))
    scripts.recorded(other)
    done = scripts.run(removal)
    assert done.returncode == 0
    assert "left as it is" in done.stdout
    assert not (tmp_path / "gone").exists()
    scripts.recorded(MINE)
    assert scripts.run(removal).returncode == 0
    assert (tmp_path / "gone").exists()


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_a_container_is_removed_by_its_id(scripts: Scripts, tmp_path: Path, engine: str) -> None:
    """By its name it may be another checkout's."""
    asked, tools = tmp_path / "asked", tmp_path / "bin"
    tools.mkdir()
    (tools / engine).write_text(
        f'#!/bin/sh\necho "$*" >>{asked}\ncase "$*" in "ps "*"id=the-id") echo the-id-in-full ;; esac\n'
    )
    (tools / engine).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    removal = delete_container(engine, "hardway-dev-worker-0")
    for id_, removed in (("the-id", ["the-id-in-full"]), ("gone", [])):
        asked.write_text("")
        done = scripts.run(removal, PATH=path, PULUMI_COMMAND_STDOUT=id_)
        assert done.returncode == 0, done.stderr
        words = [line.split()[-1] for line in asked.read_text().splitlines() if line.startswith("rm ")]
        assert words == removed
    done = scripts.run(removal, PATH=path, PULUMI_COMMAND_STDOUT="")
    assert done.returncode != 0, "without an id nothing says what to remove"


def test_all_that_has_the_labs_name_is_guarded(dev: Run) -> None:
    """A resource of the container host whose command or deletion another lab's things would suffer from."""
    made = [
        each
        for each in dev.of_type("command:local:Command")
        if each.name.startswith("machines-")
        and each.name not in ("machines-quorum", "machines-settings", "machines-versions")
    ]
    assert {"machines-network", "machines-firewall", "machines-boot", "machines-worker-0"} < {
        each.name for each in made
    }
    # Of what the mocked engine gives for a key.
    identity = fingerprint("ssh-ed25519 PUBLIC-machines-ssh")
    for each in made:
        assert str(each.inputs["delete"]).startswith(REMOVES), each.name
        assert each.inputs["environment"] == {IDENTITY: identity}, each.name
        if each.name != "machines-preflight":
            # Some look at etcd's quorum besides (quorum.py).
            plain = owners_interpreter("dev")[-1]
            assert each.inputs["interpreter"][-1].startswith(plain.partition("\n")[0]), each.name
            assert each.inputs["interpreter"][-1].endswith(plain.partition('exec /bin/bash -c "$0"; fi')[2]), each.name


def test_the_own_machines_of_a_running_lab_stay(dev: Run) -> None:
    """A lab of an earlier version gets another deletion and interpreter: an update, that must print the same id."""
    update = str(dev.named("machines-worker-0", "command:local:Command").inputs["update"])
    done = subprocess.run(
        ["/bin/bash", "-c", update], env={"PULUMI_COMMAND_STDOUT": "the-id"}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "the-id\n"
