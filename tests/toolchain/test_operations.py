"""Against the real engine, with the plugins that `make test` has put on PATH, on a toy project in a directory."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from config import creation_mark, destroy_mark
from config.substrates import SUBSTRATES
from toolchain import operations, paths, processes, stack, state
from toolchain.errors import ToolchainError
from toolchain.prepare import Workshop
from toolchain.recovery import clear_stale_locks
from toolchain.stack import Stack

PROGRAM = """
import os
import pulumi, pulumi_command as command
command.local.Command("quick", create="true")
command.local.Command("slow", create=pulumi.Config("toy").require("create"))
pulumi.export("kubeconfig", pulumi.Output.secret("the-secret"))
"""
# Of a lab on Google nothing is looked for on the host, which may have one of this name.
SETTINGS = "# A toy.\nconfig:\n  toy:create:   {create}\n  toy:lab: {{substrate: gcp}}\n"
# Deletions that can be repeated, and note the state that they find.
DELETIONS = """
import pulumi, pulumi_command as command
from pulumi import ResourceOptions
note = "sha256sum <.state/.pulumi/stacks/toy/dev.json >>deletions"
last = command.local.Command("last", create="true", delete=note + "; ENDING")
command.local.Command("first", create="true", delete=note, opts=ResourceOptions(depends_on=[last]))
pulumi.export("kubeconfig", pulumi.Output.secret("the-secret"))
"""
# What a lab creates on its host, each thing once; each notes the state that it finds.
CREATIONS = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import pulumi, pulumi_command as command, pulumi_tls as tls
from pulumi import ResourceOptions
from config import creation_mark
def noted(identity):
    creation_mark.note(identity)
    return f"mkdir -p host/things; echo {{identity}} >host/record"
def thing(name, after, script="true"):
    note = "sha256sum <.state/.pulumi/stacks/toy/dev.json >>creations"
    create = f"set -e; {{note}}; mkdir host/things/{{name}}; {{script}}"
    opts = ResourceOptions(depends_on=[after])
    return command.local.Command(name, create=create, delete=f"rm -rf host/things/{{name}}", opts=opts)
key = tls.PrivateKey("machines-ssh", algorithm="ED25519")
record = command.local.Command(
    "record", create=key.public_key_fingerprint_sha256.apply(noted), delete="rm -f host/record"
)
thing("last", thing("first", record), pulumi.Config("toy").require("create"))
pulumi.export("kubeconfig", pulumi.Output.secret("the-secret"))
"""
ALL_CREATED = {"record", "first", "last"}
WAIT_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A checkout with a program of two commands."""

    directory: Path

    def create(self, script: str) -> None:
        """Set the second command's script."""
        (self.directory / "Pulumi.dev.yaml").write_text(SETTINGS.format(create=json.dumps(script)))

    @property
    def stack(self) -> Stack:
        return stack.read("dev")

    @property
    def workshop(self) -> Workshop:
        found = state.ensure()
        pulumi = shutil.which("pulumi")
        assert pulumi, "no pulumi on PATH: `make test` puts it there"
        return Workshop(
            pulumi=Path(pulumi),
            state=found,
            environment={
                **found.environment,
                "PULUMI_SKIP_UPDATE_CHECK": "1",
                "PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER": "1",
            },
        )

    def up(self) -> int:
        return operations.up(self.workshop, self.stack)

    def resources(self) -> set[str]:
        file = self.state_file
        latest = json.loads(file.read_text())["checkpoint"]["latest"]
        assert not latest.get("pending_operations")
        return {r["urn"].rpartition("::")[2] for r in latest.get("resources", []) if r["type"].startswith("command:")}

    def destroy(self) -> int:
        return operations.destroy(self.workshop, self.stack)

    @property
    def state_file(self) -> Path:
        return self.directory / ".state" / ".pulumi" / "stacks" / "toy" / "dev.json"

    def deletions(self) -> list[str]:
        """The state at each deletion."""
        return (self.directory / "deletions").read_text().splitlines()

    def creations(self) -> list[str]:
        """The state at each creation."""
        return (self.directory / "creations").read_text().splitlines()

    def things(self) -> set[str]:
        """What the lab has on its host."""
        host = self.directory / "host"
        return {str(file.relative_to(host)) for file in (*host.glob("record"), *host.glob("things/*"))}

    @property
    def mark(self) -> Path:
        """Of a first `up`."""
        return self.stack.directory / creation_mark.NAME

    def start(self, command: str, *, traits: str = "deletes_again") -> subprocess.Popen[str]:
        """`up` or `destroy` as a process of its own."""
        script = (
            "import sys; from pathlib import Path; from toolchain import paths; "
            "paths.checkout = lambda: Path(sys.argv[1]); "
            f"from tests.toolchain.test_operations import Toy, {traits}; from toolchain import operations; "
            f"toy = Toy(directory=paths.checkout()); {traits}()\n"
            f"with operations.alone(toy.stack, './hardway {command}'): sys.exit(toy.{command}())"
        )
        return subprocess.Popen(
            [sys.executable, "-c", script, str(self.directory)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_plain_pulumi(self) -> subprocess.Popen[str]:
        """A `pulumi up` as a user starts it, without the tool chain."""
        return subprocess.Popen(
            [self.workshop.pulumi, "up", "--yes", "--skip-preview", "--stack", self.stack.name, "--non-interactive"],
            cwd=self.directory,
            env=os.environ | self.workshop.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    (tmp_path / "Pulumi.yaml").write_text("name: toy\nruntime: python\n")
    (tmp_path / "__main__.py").write_text(PROGRAM)
    made = Toy(directory=tmp_path)
    made.create("true")
    return made


@pytest.fixture
def running(toy: Toy) -> Iterator["Running"]:
    """An `up` that stands in the middle of its second command, for a minute."""
    marker = toy.directory / "in-the-middle"
    toy.create(f"touch {marker}; exec sleep 240")
    with in_the_middle(toy, "up", marker) as running:
        yield running


def deletes_again() -> None:
    """From here on the toy is of a substrate whose deletions can be repeated."""
    SUBSTRATES["gcp"] = replace(SUBSTRATES["gcp"], deletes_again=True)


def saves_once() -> None:
    """From here on the toy is of a substrate from which a lab can be removed without a state."""
    operations_ = "tests.toolchain.toy_host:ToyHost"
    SUBSTRATES["gcp"] = replace(SUBSTRATES["gcp"], removes_unsaved=True, deletes_again=True, operations=operations_)


@pytest.fixture
def new(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A lab that was never there, whose first `up` saves the state once."""
    monkeypatch.setitem(SUBSTRATES, "gcp", SUBSTRATES["gcp"])
    saves_once()
    (toy.directory / "__main__.py").write_text(CREATIONS)
    return toy


@contextmanager
def first_up_in_the_middle(new: Toy) -> Iterator["Running"]:
    """A first `up` that creates the last thing, for a minute; a later one ends at once."""
    marker = new.directory / "in-the-middle"
    new.create(f"[ -e {marker} ] || {{ touch {marker}; exec sleep 60; }}")
    with in_the_middle(new, "up", marker, traits="saves_once") as running:
        yield running


@pytest.fixture
def deleting(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A lab of two resources whose deletions can be repeated; what is called with the end of the last deletion."""
    monkeypatch.setitem(SUBSTRATES, "gcp", SUBSTRATES["gcp"])
    deletes_again()

    def create(ending: str) -> None:
        (toy.directory / "__main__.py").write_text(DELETIONS.replace("ENDING", ending))
        assert toy.up() == 0
        assert toy.resources() == {"first", "last"}

    return create


@contextmanager
def destroy_in_the_middle(toy: Toy, deleting: Callable[[str], None]) -> Iterator["Running"]:
    """A `destroy` in its last deletion, for a minute; a later one ends at once."""
    marker = toy.directory / "in-the-middle"
    deleting(f"[ -e {marker} ] || {{ touch {marker}; exec sleep 60; }}")
    with in_the_middle(toy, "destroy", marker) as running:
        yield running


@dataclass(frozen=True, kw_only=True)
class Running:
    process: subprocess.Popen[str]
    pulumi: int

    def kill(self, *, whole: bool = False) -> None:
        """Kill `pulumi`, as a whole with the command that started it, and wait until both have ended."""
        for pid in (self.pulumi, *([self.process.pid] if whole else [])):
            os.kill(pid, signal.SIGKILL)
        assert self.process.wait(WAIT_SECONDS) != 0
        deadline = time.monotonic() + WAIT_SECONDS
        while (left := processes.read(self.pulumi)) and not left.has_ended:
            assert time.monotonic() < deadline, "the killed pulumi does not end"
            time.sleep(0.05)


@contextmanager
def in_the_middle(toy: Toy, command: str, marker: Path, *, traits: str = "deletes_again") -> Iterator[Running]:
    """`up` or `destroy`, from the moment at which it has made the marker; killed in the end."""
    process = toy.start(command, traits=traits)
    wait_for(marker.exists, process)
    pulumi = pulumi_below(process.pid)
    try:
        yield Running(process=process, pulumi=pulumi)
    finally:
        for pid in (process.pid, pulumi):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not get to its second command"
        time.sleep(0.1)


def pulumi_below(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (child,) = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "pulumi\n"]
    return child


def test_a_run_keeps_no_log_of_the_engine_and_plain_pulumi_does(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    home = toy.directory / "users-home"
    monkeypatch.setenv("PULUMI_HOME", str(home))
    assert toy.up() == 0
    assert not (home / "logs").exists()

    plain = toy.start_plain_pulumi()
    said, _ = plain.communicate(timeout=120)
    assert plain.returncode == 0, said
    assert list((home / "logs").glob("*.log"))


def test_a_new_stack_is_made_without_asking_for_its_state(toy: Toy, tmp_path: Path) -> None:
    """The CLI takes half a second to say that there is none."""
    called = tmp_path / "called"
    pulumi = tmp_path / "pulumi"
    pulumi.write_text(f'#!/bin/sh\necho "$1 $2" >>{called}\nexec {toy.workshop.pulumi} "$@"\n')
    pulumi.chmod(0o755)
    assert operations.up(replace(toy.workshop, pulumi=pulumi), toy.stack) == 0
    assert called.read_text().splitlines() == ["stack init", "up --yes"]


def test_a_plan_limits_what_up_does(toy: Toy, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    toy.create("true")
    assert operations.preview(toy.workshop, toy.stack, options=[f"--save-plan={plan}"]) == 0
    toy.create(f"touch {tmp_path}/not-planned")
    assert operations.up(toy.workshop, toy.stack, options=[f"--plan={plan}"]) != 0
    assert not (tmp_path / "not-planned").exists()
    toy.create("true")
    assert operations.up(toy.workshop, toy.stack, options=[f"--plan={plan}"]) == 0
    assert toy.resources() == {"quick", "slow"}


def test_the_state_of_no_lab_is_not_judged(toy: Toy, tmp_path: Path) -> None:
    toy.create("true")
    with pytest.raises(ToolchainError, match=r"There is no lab dev: `hardway up -s dev` makes it\."):
        operations.analyze(toy.workshop, toy.stack, tmp_path, as_json=False)


@pytest.mark.parametrize("place", [".", "tests/stacks"])
def test_up_preview_destroy(toy: Toy, place: str, capfd: pytest.CaptureFixture[str]) -> None:
    (toy.directory / place).mkdir(parents=True, exist_ok=True)
    file = (toy.directory / "Pulumi.dev.yaml").rename(toy.directory / place / "Pulumi.dev.yaml")
    settings = file.read_text()
    assert toy.up() == 0
    assert toy.resources() == {"quick", "slow"}
    assert operations.outputs(toy.workshop, toy.stack) == {"kubeconfig": "the-secret"}

    capfd.readouterr()
    assert operations.preview(toy.workshop, toy.stack) == 0
    assert re.search(r"3 unchanged", capfd.readouterr().out)
    assert toy.up() == 0
    assert "3 unchanged" in capfd.readouterr().out

    assert operations.destroy(toy.workshop, toy.stack) == 0
    assert toy.resources() == set()
    said = capfd.readouterr()
    assert "the-secret" not in said.out + said.err
    assert file.read_text() == settings
    assert list(toy.directory.rglob("Pulumi.dev.yaml")) == [file]


def test_a_state_that_a_power_failure_has_left_with_nul_bytes(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    """Pulumi itself reads no such state: neither `up` nor `destroy` would work."""
    assert toy.up() == 0
    file = toy.state_file
    for again in (toy.up, lambda: operations.destroy(toy.workshop, toy.stack)):
        with file.open("ab") as state_file:
            state_file.write(bytes(4096))
        capfd.readouterr()
        assert again() == 0
        assert f"{file} had NUL bytes behind its JSON" in capfd.readouterr().out
    assert toy.resources() == set()


def test_another_backend_does_not_begin_a_lab_that_is_up(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toy.up() == 0
    toy.stack.directory.mkdir()
    (toy.stack.directory / "lab.json").write_text("{}")
    assert toy.up() == 0
    other = toy.directory / "other-backend"
    other.mkdir()
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{other}")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "another")
    for _ in range(2):
        with pytest.raises(ToolchainError, match="The lab dev is up"):
            toy.up()
    (toy.stack.directory / "lab.json").unlink()
    assert toy.up() == 0


def test_a_failing_program_ends_with_its_status(toy: Toy) -> None:
    toy.create("false")
    assert toy.up() != 0
    toy.create("true")
    assert toy.up() == 0


def test_an_up_that_was_killed_is_finished_by_the_next(
    toy: Toy, running: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    running.kill()

    toy.create("true")
    assert toy.up() == 0
    said = capfd.readouterr().out
    assert f"Removed the lock of a run that was killed (process {running.pulumi}" in said
    assert "creating slow" in said
    assert toy.resources() == {"quick", "slow"}


def test_a_plugin_that_a_killed_run_has_left_at_work_is_ended(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    """An official plugin does not notice for minutes; here a process stands for it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    name = "pulumi-resource-command"
    plugin = subprocess.Popen(
        [name, "-c", "import signal; signal.pause()", address], executable=sys.executable, cwd=toy.directory
    )
    try:
        assert toy.up() == 0
        assert plugin.poll() == -signal.SIGTERM
    finally:
        plugin.kill()
        plugin.wait()
    assert f"Ended {name} (process {plugin.pid}): a killed run had left it running." in capfd.readouterr().out


def test_clearing_a_killed_run_does_not_print_the_outputs(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    """They are hundreds of lines of certificates."""
    assert toy.up() == 0
    marker = toy.directory / "in-the-middle"
    toy.create(f"touch {marker}; exec sleep 240")
    with in_the_middle(toy, "up", marker) as running:
        running.kill()
    toy.create("true")
    capfd.readouterr()
    assert toy.up() == 0
    said = capfd.readouterr().out
    assert "A run was killed while updating slow" in said
    assert "kubeconfig" not in said


def test_a_destroy_after_a_killed_up(toy: Toy, running: Running) -> None:
    running.kill()
    assert operations.destroy(toy.workshop, toy.stack) == 0
    assert toy.resources() == set()


def test_a_destroy_whose_deletions_can_be_repeated_saves_the_state_once(
    toy: Toy, deleting: Callable[[str], None]
) -> None:
    deleting("true")
    assert toy.destroy() == 0
    assert toy.resources() == set()
    first, last = toy.deletions()
    assert first == last
    assert not (toy.stack.directory / destroy_mark.NAME).exists()
    assert toy.up() == 0


def test_any_other_destroy_saves_it_at_each_deletion(
    toy: Toy, deleting: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    deleting("true")
    monkeypatch.setitem(SUBSTRATES, "gcp", replace(SUBSTRATES["gcp"], deletes_again=False))
    assert toy.destroy() == 0
    first, last = toy.deletions()
    assert first != last


@pytest.mark.parametrize("whole", [False, True])
def test_after_a_killed_destroy_only_another_one_goes_on(
    toy: Toy, deleting: Callable[[str], None], whole: bool
) -> None:
    """The state has all that is deleted: `up` would find nothing to do."""
    with destroy_in_the_middle(toy, deleting) as running:
        running.kill(whole=whole)
    assert toy.resources() == {"first", "last"}
    for refused in (
        lambda: operations.check_settings(toy.stack),
        lambda: operations.preview(toy.workshop, toy.stack),
    ):
        with pytest.raises(ToolchainError, match=r"was killed: the state still has .*`./hardway destroy -s dev`"):
            refused()
    assert toy.destroy() == 0
    assert toy.resources() == set()
    assert len(toy.deletions()) == 4
    assert not toy.stack.directory.exists()
    operations.check_settings(toy.stack)


def test_a_refused_pulumi_up_does_not_hide_a_killed_destroy(toy: Toy, deleting: Callable[[str], None]) -> None:
    """It saves the state again, with all that is deleted."""
    with destroy_in_the_middle(toy, deleting) as running:
        running.kill()
    clear_stale_locks(toy.workshop.state.directory, toy.stack)
    before = toy.state_file.read_bytes()
    (toy.directory / "__main__.py").write_text("raise SystemExit('refused')\n")
    plain = toy.start_plain_pulumi()
    plain.communicate(timeout=WAIT_SECONDS)
    assert plain.returncode != 0 and toy.state_file.read_bytes() != before
    with pytest.raises(ToolchainError, match="was killed: the state still has"):
        operations.check_settings(toy.stack)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_destroy_has_its_deletions_in_the_state(
    toy: Toy, deleting: Callable[[str], None], number: signal.Signals
) -> None:
    with destroy_in_the_middle(toy, deleting) as running:
        running.process.send_signal(number)
        running.process.communicate(timeout=WAIT_SECONDS)
        assert running.process.returncode != 0
    assert toy.resources() == {"last"}
    operations.check_settings(toy.stack)
    assert toy.up() == 0
    assert toy.resources() == {"first", "last"}


def test_a_deletion_that_fails_leaves_only_what_is_left_in_the_state(toy: Toy, deleting: Callable[[str], None]) -> None:
    deleting("[ -e repaired ]")
    assert toy.destroy() != 0
    assert toy.resources() == {"last"}
    operations.check_settings(toy.stack)
    (toy.directory / "repaired").touch()
    assert toy.destroy() == 0
    assert toy.resources() == set()


def test_a_destroy_that_cannot_begin_is_no_unfinished_one(toy: Toy, deleting: Callable[[str], None]) -> None:
    """Without the right passphrase nothing is deleted, and nothing saved."""
    deleting("true")
    passphrase = toy.directory / ".state" / "passphrase"
    right = passphrase.read_text()
    passphrase.write_text("another")
    with pytest.raises(ToolchainError, match="another passphrase"):
        toy.destroy()
    assert not (toy.directory / "deletions").exists()
    passphrase.write_text(right)
    operations.check_settings(toy.stack)
    assert toy.up() == 0


def test_the_first_up_saves_the_state_once(new: Toy) -> None:
    assert new.up() == 0
    assert new.resources() == ALL_CREATED
    first, last = new.creations()
    assert first == last
    assert not new.stack.directory.exists(), "the mark is gone"
    assert new.destroy() == 0
    assert new.things() == set()
    # As if it had never been there.
    assert new.up() == 0
    assert new.creations()[2] == new.creations()[3]


def test_any_other_up_saves_it_at_each_resource(new: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert new.up() == 0
    program = new.directory / "__main__.py"
    program.write_text(CREATIONS + 'thing("fourth", thing("third", record))\n')
    assert new.up() == 0
    third, fourth = new.creations()[2:]
    assert third != fourth
    assert new.destroy() == 0
    monkeypatch.setitem(SUBSTRATES, "gcp", replace(SUBSTRATES["gcp"], removes_unsaved=False))
    # Such a program has no mark to write to.
    assert new.up() == 0
    assert len(set(new.creations()[4:])) > 1


@pytest.mark.parametrize("whole", [False, True])
def test_what_a_killed_first_up_created_is_removed_by_the_next(
    new: Toy, whole: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """No state has it. What is not removed is in the way of the next one: here each thing can be created once."""
    with first_up_in_the_middle(new) as running:
        running.kill(whole=whole)
    assert new.resources() == set()
    assert new.things() == {"record", "things/first", "things/last"}
    before = new.mark.read_bytes()

    capfd.readouterr()
    operations.check_settings(new.stack)
    assert operations.preview(new.workshop, new.stack) == 0
    said = capfd.readouterr().out
    assert re.search(r"The first up of the lab dev, begun at 20.* UTC, was killed\. `up` first removes", said)
    assert (new.mark.read_bytes(), new.things()) == (before, {"record", "things/first", "things/last"})

    assert new.up() == 0
    said = capfd.readouterr().out
    assert re.search(r"The first up of the lab dev, begun at .*, was killed\. Removing what it created\.", said)
    assert new.resources() == ALL_CREATED
    assert len(set(new.creations()[2:])) == 1, "it is a first one again"
    assert not new.mark.exists()
    assert new.up() == 0
    assert "Removing" not in capfd.readouterr().out


def test_a_destroy_removes_what_a_killed_first_up_created(new: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    with first_up_in_the_middle(new) as running:
        running.kill()
    assert new.destroy() == 0
    assert "Removing what it created." in capfd.readouterr().out
    assert new.things() == set()
    assert not new.stack.directory.exists()


def test_a_destroy_removes_what_a_killed_up_was_creating(new: Toy) -> None:
    """The thing is on the host, and the state has only that it was being created: plain `pulumi up` saves that."""
    marker, removing = new.directory / "in-the-middle", new.directory / "host" / "removing"
    new.create(f"touch {marker}; exec sleep 60")
    assert operations.preview(new.workshop, new.stack) == 0
    plain = new.start_plain_pulumi()
    wait_for(marker.exists, plain)
    plain.kill()
    plain.communicate()
    assert new.things() == {"record", "things/first", "things/last"}
    removing.write_text("echo broken >&2; exit 3")
    with pytest.raises(ToolchainError, match=r"cannot be removed: removes things of dev: broken"):
        new.destroy()
    # What was being created is not in the state any more.
    removing.unlink()
    assert new.destroy() == 0
    assert (new.resources(), new.things()) == (set(), set())


def test_a_removal_that_is_killed_is_finished_by_the_next_up(new: Toy) -> None:
    with first_up_in_the_middle(new) as running:
        running.kill()
    removing, marker = new.directory / "host" / "removing", new.directory / "removal-in-the-middle"
    removing.write_text(f"touch {marker}; exec sleep 240")
    again = new.start("up", traits="saves_once")
    try:
        wait_for(marker.exists, again)
    finally:
        again.kill()
        again.communicate()
    assert new.things() == {"record", "things/last"}
    removing.write_text("echo broken >&2; exit 3")
    with pytest.raises(ToolchainError, match=r"cannot be removed: removes things of dev: broken"):
        new.up()
    assert new.mark.exists()
    removing.unlink()
    assert new.up() == 0
    assert new.resources() == ALL_CREATED


def test_an_up_that_was_killed_before_it_created_anything_removes_nothing(
    new: Toy, capfd: pytest.CaptureFixture[str]
) -> None:
    """The lab of another checkout, whose name this one has."""
    marker, program = new.directory / "in-the-middle", new.directory / "__main__.py"
    waits = f"    open({str(marker)!r}, 'w').close(); import time; time.sleep(60)\n    creation_mark.note("
    program.write_text(CREATIONS.replace("    creation_mark.note(", waits))
    others = new.directory / "host" / "things" / "others"
    others.mkdir(parents=True)
    with in_the_middle(new, "up", marker, traits="saves_once") as running:
        running.kill()
    assert new.mark.exists()
    program.write_text(CREATIONS)
    assert new.up() == 0
    assert "Removing" not in capfd.readouterr().out
    assert new.resources() == ALL_CREATED and others.exists()


def test_what_has_another_identity_by_now_stays(new: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    with first_up_in_the_middle(new) as running:
        running.kill()
    record = new.directory / "host" / "record"
    record.write_text("SHA256:another\n")
    assert new.destroy() == 0
    assert "Removing" not in capfd.readouterr().out
    assert new.things() == {"record", "things/first", "things/last"}
    assert not new.mark.exists()


def test_a_state_that_a_refused_run_has_written_does_not_hide_a_killed_one(new: Toy) -> None:
    """Plain `pulumi up` saves a state although the program creates nothing: the checksum of the file proves nothing."""
    with first_up_in_the_middle(new) as running:
        running.kill()
    program = new.directory / "__main__.py"
    program.write_text("raise SystemExit('refused')\n")
    clear_stale_locks(new.workshop.state.directory, new.stack)
    before = new.state_file.read_bytes()
    plain = new.start_plain_pulumi()
    plain.communicate(timeout=WAIT_SECONDS)
    assert plain.returncode != 0
    assert new.state_file.read_bytes() != before
    program.write_text(CREATIONS)
    assert new.up() == 0
    assert new.resources() == ALL_CREATED


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_first_up_has_what_it_created_in_the_state(new: Toy, number: signal.Signals, times: int) -> None:
    with first_up_in_the_middle(new) as running:
        running.process.send_signal(number)
        if times == 2:
            assert running.process.stdout is not None
            for line in running.process.stdout:
                if "press ^C again" in line:
                    break
            running.process.send_signal(number)
        running.process.communicate(timeout=WAIT_SECONDS)
        assert running.process.returncode != 0
    latest = json.loads(new.state_file.read_text())["checkpoint"]["latest"]
    names = {each["urn"].rpartition("::")[2] for each in latest["resources"]}
    assert {"record", "first"} <= names and "last" not in names
    assert not new.mark.exists()
    shutil.rmtree(new.directory / "host" / "things" / "last")
    assert new.up() == 0
    assert new.resources() == ALL_CREATED
    assert len(new.creations()) == 3, "the first thing was not created again"


def test_a_first_up_that_fails_has_what_it_created_in_the_state(new: Toy) -> None:
    new.create("rmdir host/things/last; [ -e repaired ]")
    assert new.up() != 0
    assert new.resources() == {"record", "first"}
    assert not new.mark.exists()
    (new.directory / "repaired").touch()
    assert new.up() == 0
    assert new.resources() == ALL_CREATED
    assert len(new.creations()) == 3


def test_a_first_up_whose_state_cannot_be_saved_is_as_a_killed_one(new: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    """As on a full disk."""
    stacks = ".state/.pulumi/stacks"
    new.create(f"[ -e failed ] || {{ touch failed; mv {stacks}/toy {stacks}/kept; touch {stacks}/toy; }}")
    assert new.up() != 0
    assert new.mark.exists()
    (new.directory / stacks / "toy").unlink()
    (new.directory / stacks / "kept").rename(new.directory / stacks / "toy")
    capfd.readouterr()
    assert new.up() == 0
    assert "Removing what it created." in capfd.readouterr().out
    assert new.resources() == ALL_CREATED


def test_a_first_up_that_cannot_begin_leaves_no_mark(new: Toy) -> None:
    """Of an empty state the engine does not notice a wrong passphrase before it saves it."""
    assert operations.preview(new.workshop, new.stack) == 0
    passphrase = new.directory / ".state" / "passphrase"
    right = passphrase.read_text()
    passphrase.write_text("another")
    with pytest.raises(ToolchainError, match="another passphrase"):
        new.up()
    assert new.things() == set()
    assert not new.stack.directory.exists()
    passphrase.write_text(right)
    assert new.up() == 0


def test_the_mark_of_another_state_is_left_alone(new: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with its own state can it be known what was saved: perhaps all of it was."""
    with first_up_in_the_middle(new) as running:
        running.kill()
    before, things = new.mark.read_bytes(), new.things()
    other = new.directory / "other-backend"
    other.mkdir()
    with monkeypatch.context() as changed:
        changed.setenv("PULUMI_BACKEND_URL", f"file://{other}")
        changed.setenv("PULUMI_CONFIG_PASSPHRASE", "another")
        assert new.up() != 0, "the things are in its way"
        assert (new.mark.read_bytes(), new.things() - {"record"}) == (before, things - {"record"})


def test_a_second_up_is_refused_and_told_who_is_first(toy: Toy, running: Running) -> None:
    started = time.monotonic()
    with (
        pytest.raises(ToolchainError, match=rf"./hardway up, process {running.process.pid}, since"),
        operations.alone(toy.stack, "./hardway up"),
    ):
        pass
    assert time.monotonic() - started < 1


@contextmanager
def plain_pulumi_at_work(toy: Toy) -> Iterator[subprocess.Popen[str]]:
    """A plain `pulumi up` in the middle of its work; what is done meanwhile leaves it there."""
    assert toy.up() == 0
    marker = toy.directory / "in-the-middle"
    toy.create(f"touch {marker}; exec sleep 240")
    # By the user's own hand, not below the tool chain: there its output would go to a reader that is not there.
    plain = toy.start_plain_pulumi()
    try:
        wait_for(marker.exists, plain)
        yield plain
        assert plain.poll() is None
    finally:
        plain.kill()
        plain.communicate()


def test_a_plain_pulumi_at_work_is_not_disturbed(toy: Toy) -> None:
    with plain_pulumi_at_work(toy) as plain, pytest.raises(ToolchainError, match=rf"process {plain.pid} on"):
        toy.up()


def test_a_command_that_changes_the_lab_by_itself_keeps_plain_pulumi_out(toy: Toy) -> None:
    assert toy.up() == 0
    marker = toy.directory / "not-to-be"
    toy.create(f"touch {marker}")
    with operations.without_pulumi(toy.stack, "./hardway restore"):
        plain = toy.start_plain_pulumi()
        said, _ = plain.communicate(timeout=WAIT_SECONDS)
        assert plain.returncode != 0
        assert "the stack is currently locked by 1 lock(s)" in said
        assert f"(pid {os.getpid()})" in said
        # A preview changes nothing.
        assert operations._ask(toy.workshop, toy.stack, "preview").returncode == 0
        # This checkout's own runs know the command's name.
        with pytest.raises(ToolchainError, match=rf"Another ./hardway restore is at work .*process {os.getpid()} on"):
            toy.up()
    assert not marker.exists()
    assert toy.up() == 0
    assert marker.exists()


def test_a_command_is_refused_while_plain_pulumi_is_at_work(toy: Toy) -> None:
    with (
        plain_pulumi_at_work(toy) as plain,
        pytest.raises(ToolchainError, match=rf"Another pulumi is at work .*process {plain.pid} on"),
        operations.without_pulumi(toy.stack, "./hardway restore"),
    ):
        pytest.fail("both are at work")


def test_a_backend_without_a_directory_is_said(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://somewhere")
    with operations.without_pulumi(toy.stack, "./hardway restore"):
        assert "./hardway restore cannot hold Pulumi's lock" in capsys.readouterr().out
    assert not (toy.directory / ".state" / ".pulumi").exists()


def test_other_stacks_are_not_kept_waiting(toy: Toy, running: Running) -> None:
    (toy.directory / "Pulumi.ha.yaml").write_text(SETTINGS.format(create="'true'"))
    other = stack.read("ha")
    with operations.alone(other, "./hardway up"):
        assert operations.up(toy.workshop, other) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_ends_in_order(toy: Toy, running: Running, number: signal.Signals) -> None:
    running.process.send_signal(number)
    said, _ = running.process.communicate(timeout=WAIT_SECONDS)
    assert running.process.returncode != 0
    assert "Traceback" not in said
    place = toy.directory / ".state" / ".pulumi" / "locks"
    assert not list(place.rglob("*.json"))
    toy.create("true")
    assert toy.up() == 0
    assert toy.resources() == {"quick", "slow"}


def test_lost_passphrase_is_reported_and_accepted_when_restored(toy: Toy) -> None:
    assert toy.up() == 0
    passphrase = toy.directory / ".state" / "passphrase"
    kept = passphrase.read_text()
    before = toy.state_file.read_bytes()
    passphrase.unlink()
    with pytest.raises(ToolchainError, match="passphrase is lost"):
        toy.up()
    assert not passphrase.exists()
    assert toy.state_file.read_bytes() == before
    passphrase.write_text(kept)
    assert toy.up() == 0


def test_a_wrong_passphrase_is_reported(toy: Toy, capfd: pytest.CaptureFixture[str]) -> None:
    assert toy.up() == 0
    (toy.directory / ".state" / "passphrase").write_text("another")
    with pytest.raises(ToolchainError, match=r"(?s)stack dev .*another passphrase than that in .*/\.state/passphrase"):
        toy.up()
    assert "incorrect passphrase" in capfd.readouterr().out


def test_a_passphrase_that_was_changed_is_named_with_the_stack(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert toy.up() == 0
    workshop = toy.workshop
    subprocess.run(
        [workshop.pulumi, "stack", "change-secrets-provider", "passphrase", "--stack", "dev"],
        cwd=toy.directory,
        env=os.environ | workshop.environment,
        input="chosen by hand\nchosen by hand\n",
        text=True,
        check=True,
    )
    with pytest.raises(ToolchainError, match=r"(?s)stack dev .*PULUMI_CONFIG_PASSPHRASE_FILE=.*/hardway up -s dev"):
        toy.up()
    chosen = toy.directory / "chosen"
    chosen.write_text("chosen by hand\n")
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(chosen))
    assert toy.up() == 0
