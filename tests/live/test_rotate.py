"""`rotate` without a lab: its stages, what a run that was killed leaves to the next, and what is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import rotations, settings_file
from config.rotations import Rotations
from live import cluster, rotate
from live.bring_up import Ended
from toolchain import operations, paths, prepare
from toolchain import stack as stacks
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

SETTINGS = "# The lab.\nconfig:\n  toy:lab:\n    workers: 2\n"


class KilledError(Exception):
    """What ends a run in the middle."""


class Lab:
    """A stack whose `up` only notes the stage that it is run at."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "Pulumi.dev.yaml"
        self.file.write_text(SETTINGS)
        self.ups: list[str] = []
        self.records: set[int] = set()
        self.waits: list[float] = []
        self.killed_at: int | None = None
        self.problems: list[str] = []
        self.code = 0
        self.bootstrap = "hard-way"
        self.authorities = "stack"
        self.substrate = "containers"

    @property
    def stack(self) -> Stack:
        found = stacks.Stack(
            name="dev",
            project="toy",
            settings_file=self.file,
            substrate=self.substrate,
            engine="podman",
            kubernetes="1",
        )
        rotates = rotations.subjects_of(self.bootstrap, self.authorities)
        return replace(found, rotations=self.rotations, bootstrap=self.bootstrap, rotates=rotates)

    @property
    def rotations(self) -> Rotations:
        return rotations.parse(settings_file.rotations_of(self.file, "toy"))[0]

    def up(self, stack: Stack) -> Ended:
        self.ups.append(" ".join(f"{key}:{each}" for key, each in stack.rotations.written().items()))  # type: ignore[union-attr]
        if (record := stack.directory / "rotation.json").exists():
            self.records.add(record.stat().st_ino)
        if self.killed_at == len(self.ups):
            raise KilledError
        return Ended(code=self.code, seconds=(0, 0, 0))

    def check(self, *_: object, seconds: float) -> None:
        self.waits.append(seconds)
        if self.problems:
            raise ToolchainError("\n".join(self.problems))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path)
    (tmp_path / ".state" / "dev").mkdir(parents=True)

    @contextmanager
    def alone(*_: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(paths, "state", lambda: tmp_path / ".state")
    monkeypatch.setattr(operations, "alone", alone)
    monkeypatch.setattr(cluster, "find", lambda stack: stack)
    monkeypatch.setattr(rotate, "check_health", made.check)
    monkeypatch.setattr(rotate, "bring_up", made.up)
    monkeypatch.setattr(stacks, "read", lambda _: made.stack)
    return made


def run(lab: Lab, *subjects: str, one_stage: bool = False) -> int:
    return rotate.rotate(lab.stack, subjects, one_stage=one_stage)


def test_each_stage_is_an_up_of_its_own(lab: Lab) -> None:
    assert run(lab, "ca", "leaves") == 0
    assert lab.ups == ["leaves:1 ca:1 trusted", "leaves:1 ca:1 used", "leaves:1 ca:1"]
    assert lab.waits == [0, 60, 60], "once before each stage; what a stage has restarted is waited for"
    assert len(lab.records) == 1, "the record is written once"
    assert "# The lab." in lab.file.read_text()
    assert run(lab, "ca") == 0
    assert lab.ups[3:] == ["leaves:1 ca:2 trusted", "leaves:1 ca:2 used", "leaves:1 ca:2"]


@pytest.mark.parametrize("killed_at", [1, 2, 3])
@pytest.mark.parametrize("again", [(), ("ca",)], ids=["without a name", "by its name"])
def test_a_run_that_was_killed_is_continued_and_not_begun_again(
    lab: Lab, killed_at: int, again: tuple[str, ...]
) -> None:
    lab.killed_at = killed_at
    with pytest.raises(KilledError):
        run(lab, "ca")
    lab.killed_at = None
    done = lab.ups[:]
    assert run(lab, *again) == 0
    stages = ["ca:1 trusted", "ca:1 used", "ca:1"]
    assert done == stages[:killed_at]
    # The stage that was killed is run once more.
    assert lab.ups[killed_at:] == stages[killed_at - 1 :]
    assert lab.rotations.written() == {"ca": "1"}


def test_a_run_that_was_killed_before_the_settings_were_written_is_continued(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Stack:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(rotate, "advanced", killed)
        with pytest.raises(KilledError):
            run(lab, "leaves")
    assert lab.ups == [] and lab.rotations == Rotations()
    assert run(lab) == 0
    assert lab.ups == ["", "leaves:1"]


def test_a_stage_whose_up_fails_ends_the_run(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.code = 255
    assert run(lab, "etcd-ca") == 255
    assert lab.ups == ["etcd-ca:1 trusted"]
    unfinished = "The rotation of etcd-ca is not finished (etcd-ca: 1 trusted)."
    assert unfinished in capsys.readouterr().out

    def lost(_: Stack) -> Ended:
        raise ToolchainError("worker-0 does not answer any more.")

    with monkeypatch.context() as patched:
        patched.setattr(rotate, "bring_up", lost)
        said = refusal(lambda: run(lab))
    assert said.startswith("worker-0 does not answer any more.\n") and unfinished in said
    assert "`./hardway rotate -s dev` continues it." in said
    lab.code = 0
    assert run(lab) == 0
    assert lab.rotations.written() == {"etcd-ca": "1"}


def test_one_stage_at_a_time(lab: Lab) -> None:
    assert run(lab, "ca", one_stage=True) == 0
    assert lab.rotations.written() == {"ca": "1 trusted"}
    assert run(lab, one_stage=True) == 0
    assert lab.rotations.written() == {"ca": "1 used"}


def refusal(change: Callable[[], object]) -> str:
    with pytest.raises(ToolchainError) as error:
        change()
    return str(error.value)


def test_a_lab_that_does_not_work_is_not_changed(lab: Lab) -> None:
    lab.problems = ["worker-0 does not answer"]
    assert "worker-0 does not answer" in refusal(lambda: run(lab, "ca"))
    assert lab.file.read_text() == SETTINGS and lab.ups == []
    lab.problems = []
    assert "No rotation is under way" in refusal(lambda: run(lab))


def test_a_lab_that_broke_between_two_stages_stays_at_its_stage(lab: Lab) -> None:
    run(lab, "ca", one_stage=True)
    lab.problems = ["worker-0 does not answer"]
    refusal(lambda: run(lab))
    assert lab.rotations.written() == {"ca": "1 trusted"}


def test_another_key_waits_until_the_rotation_is_finished(lab: Lab) -> None:
    run(lab, "ca", one_stage=True)
    assert "A rotation of ca is not finished" in refusal(lambda: run(lab, "leaves"))
    assert lab.rotations.written() == {"ca": "1 trusted"}


def test_a_kubeadm_lab_is_refused(lab: Lab) -> None:
    lab.bootstrap = "kubeadm"
    said = refusal(lambda: run(lab, "ssh", "ca", "leaves"))
    assert "leaves, ca cannot be rotated there; nothing was changed" in said
    assert "kubeadm certs renew all" in said
    assert lab.file.read_text() == SETTINGS


def test_a_kubeadm_lab_with_external_authorities_rotates_all_but_the_key_of_secrets(lab: Lab) -> None:
    lab.bootstrap, lab.authorities = "kubeadm", "external"
    said = refusal(lambda: run(lab, "ca", "encryption-key"))
    assert "encryption-key cannot be rotated there; nothing was changed" in said
    assert "Reason: the Secrets in its etcd are not encrypted" in said and "kubeadm certs renew" not in said
    assert "Here rotate service-accounts, leaves, ca, etcd-ca, front-proxy-ca, ssh alone." in said
    assert lab.file.read_text() == SETTINGS
    assert run(lab, "leaves", "ca", "service-accounts") == 0
    stages = ("1 trusted", "1 used", "1")
    assert lab.ups == [f"service-accounts:{each} leaves:1 ca:{each}" for each in stages]


def test_the_ssh_key_of_a_kubeadm_lab_is_rotated(lab: Lab) -> None:
    lab.bootstrap = "kubeadm"
    assert run(lab, "ssh") == 0
    assert lab.ups == ["ssh:1 trusted", "ssh:1 used", "ssh:1"]


def test_machines_that_cannot_get_another_ssh_key_are_refused(lab: Lab) -> None:
    lab.substrate = "unknown"
    assert "cannot get another SSH key; nothing was changed" in refusal(lambda: run(lab, "ssh"))
    assert lab.file.read_text() == SETTINGS


def test_a_preview_shows_the_next_stage_and_writes_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def preview(_: object, stack: Stack) -> int:
        shown.append(str(settings_file.rotations_of(stack.settings_file, "toy")))
        return 0

    monkeypatch.setattr(prepare, "for_preview", lambda *_: None)
    monkeypatch.setattr(operations, "preview", preview)
    assert rotate.preview(lab.stack, ["ca"]) == 0
    assert shown == ["{'ca': '1 trusted'}"]
    assert lab.file.read_text() == SETTINGS
