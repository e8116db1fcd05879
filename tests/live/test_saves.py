"""`save`, `saves` and `rewind` with an engine of directories: what is saved, refused, killed and put back."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine, installed
from small_lab import cluster, own_backend

from live import answers, nodes, power
from live import cluster as clusters
from live.cluster import Cluster
from live.containers import Containers
from live.saves import listing, rewind, save, store, trees
from toolchain import checksum, command, halted, holder, operations, paths, prepare
from toolchain import stack as stacks
from toolchain.errors import ToolchainError

SECRET = "the lab's own key"
KEY = {"urn": "urn::machines-ssh", "outputs": {"publicKeyFingerprintSha256": "SHA256:first"}}
BEFORE = {"urn": "before"}
SALT = {"type": "passphrase", "state": {"salt": "v1:abc"}}


class KilledError(Exception):
    """What ends a run in the middle."""


class Lab:
    """A lab with disks in directories, a state, settings and files."""

    def __init__(self, tmp_path: Path, found: Cluster, engine: FakeEngine) -> None:
        self.cluster = found
        self.stack = found.stack
        self.engine = engine
        self.state: dict[str, Any] = {
            "version": 3,
            "deployment": {"secrets_providers": SALT, "resources": [KEY, BEFORE]},
        }
        self.killed_at = ""
        for machine in found.machines:
            (engine.upper(machine.name) / "disk").write_text("before")
            (engine.upper(machine.name) / "program").write_text("never changes")
            (engine.volume(machine.name) / "image").write_text("before")
        self.stack.settings_file.write_text("config: before\n")
        files = {"kubeconfig": "server: https://10.0.0.5:6443\n", "ssh_key": SECRET, "lab.json": "{}"}
        for name, text in files.items():
            (self.stack.directory / name).write_text(text)
            (self.stack.directory / name).chmod(0o644)
        (self.stack.directory / "kubectl").write_text("a program")

    def use(self) -> None:
        """Have everything change."""
        for machine in self.cluster.machines:
            (self.engine.upper(machine.name) / "disk").write_text("after")
            (self.engine.upper(machine.name) / "new").write_text("after")
            (self.engine.volume(machine.name) / "image").unlink()
        self.state["deployment"] = {"secrets_providers": SALT, "resources": [KEY, {"urn": "after"}]}
        self.stack.settings_file.write_text("config: after\n")
        (self.stack.directory / "kubeconfig").write_text("after")
        (self.stack.directory / "unfinished.json").write_text("{}")

    def told(self) -> dict[str, str]:
        """All that a rewind puts back."""
        found = {"state": json.dumps(self.state), "settings": self.stack.settings_file.read_text()}
        for machine in self.cluster.machines:
            for top in (self.engine.upper(machine.name), self.engine.volume(machine.name)):
                found |= {str(file): file.read_text() for file in top.rglob("*")}
        for file in save.lab_files(self.stack):
            if file.name != rewind.SETTINGS_BEFORE:
                found[file.name] = file.read_text()
        return found

    def export(self, *_: object) -> str:
        return json.dumps(self.state)

    def import_(self, _: object, __: object, text: str) -> None:
        if self.killed_at == "import":
            raise KilledError
        self.state = json.loads(text)

    def save(self, name: str = "good") -> store.Save:
        return save.save(self.stack, name)

    def rewind(self, name: str = "good") -> None:
        rewind.rewind(self.stack, name)

    @property
    def saves(self) -> Path:
        return store.directory(self.stack)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(paths, "checkout", lambda: tmp_path)
    own_backend(tmp_path, monkeypatch)
    (tmp_path / "__main__.py").write_text("# The lab.\n")
    (tmp_path / "components").mkdir()
    (tmp_path / "components" / "etcd.py").write_text("# etcd\n")
    found = cluster(tmp_path, controllers=1)
    found.stack.directory.mkdir(parents=True, mode=0o700)
    made = Lab(tmp_path, found, installed(tmp_path / "bin", found, monkeypatch))
    monkeypatch.setattr(clusters, "find", lambda stack, **given: replace(found, stack=stack))
    monkeypatch.setattr(stacks, "read", lambda _: made.stack)
    monkeypatch.setattr(prepare, "for_preview", lambda *_: None)
    monkeypatch.setattr(operations, "export_state", made.export)
    monkeypatch.setattr(operations, "import_state", made.import_)
    monkeypatch.setattr(power, "handshake_problem", lambda lab, url: "")
    monkeypatch.setattr(power, "_api", lambda lab: [])
    monkeypatch.setattr(nodes, "wait_until_heard", lambda *_, **__: {})
    monkeypatch.setattr(power, "dns_problem", lambda lab: "")
    monkeypatch.setattr(power, "dns_pods_missing", lambda lab, since: [])
    monkeypatch.setattr(power, "leaders_missing", lambda lab, since: [])
    monkeypatch.setattr(power, "release_leases", lambda lab, since, urls: None)
    monkeypatch.setattr(answers, "problems", lambda lab: [])
    return made


def refusal(change: Callable[[], object]) -> str:
    with pytest.raises(ToolchainError) as error:
        change()
    return str(error.value)


def test_a_state_that_no_run_has_written_since_is_not_imported(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of each rewind; and a state that has changed, and is taken for the same."""
    imported: list[str] = []
    monkeypatch.setattr(operations, "import_state", lambda *arguments: imported.append(arguments[2]))
    secret = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "ciphertext": "v1:a"}
    resource = {"urn": "before", "modified": "2026-11-29T10:00:00Z", "outputs": {"key": secret}}
    lab.state["deployment"]["resources"] = [KEY, resource]
    lab.save()
    resource["outputs"] = {"key": {**secret, "ciphertext": "v1:b"}}
    lab.rewind()
    assert imported == []
    resource["modified"] = "2026-11-29T10:00:01Z"
    lab.rewind()
    assert [json.loads(text)["deployment"]["resources"][1]["modified"] for text in imported] == ["2026-11-29T10:00:00Z"]


def test_a_lab_is_what_it_was(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    before = lab.told()
    lab.save()
    assert lab.told() == before and lab.engine.statuses() == {"running"}
    for _ in range(3):
        lab.use()
        assert lab.told() != before
        lab.rewind()
        assert lab.told() == before and lab.engine.statuses() == {"running"}
    assert halted.rewinding(lab.stack) is None
    # What the user wrote in between is not lost.
    assert (lab.stack.directory / rewind.SETTINGS_BEFORE).read_text() == "config: after\n"
    assert "is what it was at 2" in capsys.readouterr().out


def test_all_machines_are_paused_while_all_disks_are_copied(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: list[set[str]] = []
    archive = trees.archive

    def noted(top: Path, file: Path) -> None:
        statuses.append(lab.engine.statuses())
        archive(top, file)

    monkeypatch.setattr(trees, "archive", noted)
    lab.save()
    assert statuses == [{"paused"}] * 2 * len(lab.cluster.machines)


def test_a_save_is_for_root_alone_and_has_checksums(lab: Lab) -> None:
    made = lab.save()
    files = [lab.saves, *lab.saves.rglob("*")]
    assert {file.stat().st_mode & 0o077 for file in files} == {0}
    assert {file.stat().st_mode & 0o777 for file in files if file.is_dir()} == {0o700}
    done = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=lab.saves / "good", check=False)
    assert done.returncode == 0
    assert store.read(lab.stack, "good") == made and made.kubernetes == "1.36.4"


def test_no_command_line_has_a_secret(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    ask = command.ask

    def noted(*words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        called.append(" ".join(map(str, words)))
        return ask(*words, **settings)

    monkeypatch.setattr(trees, "ask", noted)
    lab.save()
    lab.rewind()
    assert called and not any(SECRET in each for each in [*called, *lab.engine.asked])


def test_a_stopped_lab_is_saved_as_it_is_and_a_rewind_starts_it(lab: Lab) -> None:
    power.stop(lab.stack)
    made = lab.save()
    assert made.paused_seconds == 0 and lab.engine.statuses() == {"exited"}
    lab.rewind()
    assert lab.engine.statuses() == {"running"} and not halted.stopped_since(lab.stack)


# What is refused before anything is changed.


def test_a_save_is_refused_with_all_reasons(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 100 << 20))
    monkeypatch.setattr(answers, "problems", lambda lab: ["kubelet.service on worker-0 does not run"])
    resource = {"urn": "urn::worker-0"}
    lab.state["deployment"]["pending_operations"] = [{"type": "creating", "resource": resource}]
    said = refusal(lab.save)
    assert "kubelet.service on worker-0 does not run" in said
    assert "a run was killed while creating worker-0: `./hardway up` finishes it" in said
    assert "no disk for a save: the machines' disks have 0 MiB, 512 MiB are to stay free" in said
    assert "Nothing was changed." in said
    assert store.names(lab.stack) == [] and lab.engine.changes() == []


def test_a_machine_that_does_not_run_is_named(lab: Lab) -> None:
    Containers(lab.cluster)._run("stop", "hardway-paper-worker-0")
    assert "worker-0 (exited) does not run: start all machines" in refusal(lab.save)


def test_a_storage_driver_without_directories_is_named(lab: Lab) -> None:
    lab.engine.describe("worker-0", GraphDriver=None)
    assert "keeps the disk of worker-0 in no directory" in refusal(lab.save)


@pytest.mark.parametrize("name", ["", ".draft", "../up", "a/b", "A", "-x", "x" * 64])
def test_bad_names_are_refused(lab: Lab, name: str) -> None:
    for change in (lab.save, lab.rewind, lambda name: store.remove(lab.stack, name)):
        assert "is no name for a save" in refusal(lambda change=change: change(name))  # type: ignore[misc]
    assert not lab.saves.exists()


def test_a_name_that_is_taken_is_refused(lab: Lab) -> None:
    lab.save()
    assert "has a save good already" in refusal(lab.save)


def test_a_save_that_is_not_there_is_refused_with_those_that_are(lab: Lab) -> None:
    assert "has no save 'good'. Its saves: none. Nothing was changed." in refusal(lab.rewind)
    lab.save("other")
    assert "Its saves: other." in refusal(lab.rewind)


def another_version(lab: Lab) -> None:
    (paths.checkout() / "components" / "etcd.py").write_text("# etcd, differently\n")


def another_passphrase(lab: Lab) -> None:
    lab.state["deployment"]["secrets_providers"] = {"type": "passphrase", "state": {"salt": "v1:other"}}


def damaged(lab: Lab) -> None:
    file = lab.saves / "good" / "worker-0-0.tar"
    content = bytearray(file.read_bytes())
    content[700] ^= 1
    file.write_bytes(content)


def incomplete(lab: Lab) -> None:
    (lab.saves / "good" / "worker-0-1.tar").unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (another_version, "it is of another version of this program ("),
        (another_passphrase, "is encrypted with another passphrase"),
        (damaged, "its file worker-0-0.tar is damaged: other checksum"),
        (incomplete, "its file worker-0-1.tar is missing"),
        (
            lambda lab: lab.engine.describe("worker-0", Image="another"),
            "worker-0 was recreated after the save: Pulumi's state in the save has another container",
        ),
    ],
)
def test_a_rewind_is_refused_before_anything_is_changed(lab: Lab, change: Callable[[Lab], None], says: str) -> None:
    lab.save()
    lab.use()
    change(lab)
    before, asked = lab.told(), lab.engine.changes()
    said = refusal(lab.rewind)
    assert says in said and said.startswith("The lab paper cannot be rewound to good. Nothing was changed.\n")
    assert lab.told() == before and lab.engine.changes() == asked and lab.engine.statuses() == {"running"}
    assert halted.rewinding(lab.stack) is None


def test_files_of_a_save_are_read_again_only_where_they_may_have_changed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second of each rewind; and a file that a power failure has emptied, and is taken for the same."""
    lab.save()
    files = {"worker-0-0.tar", "controller-0-0.tar"}
    read: list[str] = []

    def sha256_of(file: Path) -> str:
        read.append(file.name)
        return checksum.sha256_of(file)

    monkeypatch.setattr(store, "sha256_of", sha256_of)
    assert list(store.problems(lab.stack, "good")) == [] and not files & set(read)
    tar = lab.saves / "good" / "worker-0-0.tar"
    tar.write_bytes(tar.read_bytes())
    assert list(store.problems(lab.stack, "good")) == [] and files & set(read) == {"worker-0-0.tar"}
    monkeypatch.setattr(holder, "boot", lambda: "another")
    assert list(store.problems(lab.stack, "good")) == [] and files <= set(read)
    (lab.saves / "good" / store.SEEN).write_text("no JSON")
    damaged(lab)
    assert list(store.problems(lab.stack, "good")) == ["its file worker-0-0.tar is damaged: other checksum"]


def test_a_lab_is_rewound_to_before_a_rotation_of_its_key(lab: Lab) -> None:
    """A lab that is another's for itself, once another key opens it."""
    lab.save()
    before = lab.told()
    (lab.stack.directory / "ssh_key").write_text("a later key")
    lab.rewind()
    assert lab.told() == before


def test_another_lab_of_the_same_name_is_refused(lab: Lab) -> None:
    lab.save()
    other = KEY | {"outputs": {"publicKeyFingerprintSha256": "SHA256:other"}}
    lab.state["deployment"] = {"secrets_providers": SALT, "resources": [other]}
    assert "it is of another lab of this name, with another key" in refusal(lab.rewind)


def test_all_reasons_against_a_rewind_are_in_one_report(lab: Lab) -> None:
    lab.save()
    for change in (another_version, another_passphrase, damaged):
        change(lab)
    assert refusal(lab.rewind).count("\n  - ") == 3


def test_no_disk_for_a_rewind_is_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.save()
    lab.use()
    before = lab.told()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1, 1, 100 << 20))
    assert "no disk for a rewind: up to 0 MiB are written, 512 MiB are to stay free" in refusal(lab.rewind)
    assert lab.told() == before


@pytest.mark.parametrize("substrate", ["libvirt", "gcp", "machines"])
def test_other_substrates_are_refused(lab: Lab, substrate: str) -> None:
    stack = replace(lab.stack, substrate=substrate)
    for change in (save.save, rewind.rewind):
        said = refusal(lambda change=change: change(stack, "good"))  # type: ignore[misc]
        assert f"the substrate `{substrate}`" in said and "Nothing was changed." in said


# What was killed.

_SAVE = """
import sys, time
sys.path[:0] = {paths!r}
from fake_engine import FakeEngine
from pathlib import Path
from live.containers import Container, Containers
from small_lab import cluster
lab = cluster(Path({directory!r}), controllers=1)
found = [Container(machine=each.name, id="id-hardway-paper-" + each.name, status="running") for each in lab.machines]
with Containers(lab).paused(found):
    print("paused", flush=True)
    time.sleep(60)
"""


def test_machines_go_on_when_a_save_is_killed(lab: Lab, tmp_path: Path) -> None:
    """No process of the save is left to do it."""
    here = Path(__file__)
    script = _SAVE.format(paths=[str(here.parent), str(here.parents[2]), str(here.parents[1])], directory=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "paused\n"
        assert lab.engine.statuses() == {"paused"}
        os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 10
    while lab.engine.statuses() != {"running"}:
        assert time.monotonic() < end, lab.engine.asked
        time.sleep(0.05)


@pytest.mark.parametrize("place", ["archive", "complete"])
def test_a_killed_save_counts_as_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(*((trees, "archive") if place == "archive" else (store, "complete")), killed)
        # As by kill -9: nothing is cleaned up.
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KilledError):
            lab.save()
    assert (lab.saves / store.DRAFT).is_dir()
    assert store.names(lab.stack) == [] and lab.engine.statuses() == {"running"}
    lab.save()
    assert store.names(lab.stack) == ["good"] and not (lab.saves / store.DRAFT).exists()


def test_a_pause_that_fails_leaves_no_machine_paused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAILS", "pause hardway-paper-worker-0")
    assert "hardway-paper-worker-0: " in refusal(lab.save)
    assert lab.engine.statuses() == {"running"} and store.names(lab.stack) == []


@pytest.mark.parametrize("place", ["stop", "first disk", "disks", "import", "files"])
def test_a_killed_rewind_is_finished_by_the_next(lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    before = lab.told()
    lab.save()
    lab.use()

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    put_back, calls = trees.put_back, []

    def killed_after_one(*given: Any) -> None:
        calls.append(given)
        if len(calls) > 1:
            raise KilledError
        put_back(*given)

    with monkeypatch.context() as patched:
        if place == "stop":
            patched.setattr(rewind, "await_unmounted", killed)
        elif place == "first disk":
            patched.setattr(trees, "put_back", killed_after_one)
        elif place == "disks":
            patched.setattr(rewind, "_restore_files", killed)
        elif place == "import":
            lab.killed_at = "import"
        else:
            patched.setattr(rewind, "write_whole", killed)
        with pytest.raises(KilledError):
            lab.rewind()
    lab.killed_at = ""
    assert halted.rewinding(lab.stack) is not None
    for change in (
        lambda: operations.check_settings(lab.stack),
        lambda: operations.preview(None, lab.stack),  # type: ignore[arg-type]
        lambda: power.start(lab.stack),
        lambda: save.save(lab.stack, "other"),
    ):
        assert "`./hardway rewind -s paper good`" in refusal(change)
    lab.rewind()
    assert lab.told() == before and lab.engine.statuses() == {"running"}
    assert halted.rewinding(lab.stack) is None


def test_a_disk_that_stays_mounted_is_not_changed(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.save()
    lab.use()
    mounts = tmp_path / "mounts"
    upper = lab.engine.upper("worker-0")
    mounts.write_text(f"overlay /merged overlay rw,lowerdir=/l,upperdir={upper},workdir=/w 0 0\n")
    monkeypatch.setattr(rewind, "_MOUNTS", mounts)
    monkeypatch.setattr(rewind, "_UNMOUNT_SECONDS", 0)
    assert f"Still mounted, although their containers are stopped: {upper}" in refusal(lab.rewind)
    assert (upper / "disk").read_text() == "after"


# The list.


def test_saves_are_listed_and_removed(lab: Lab) -> None:
    assert listing.lines(lab.stack) == [
        "The lab paper has no saves: `./hardway save -s paper NAME` makes one.",
    ]
    lab.save("first")
    lab.save("second")
    (lab.saves / "second" / store.DESCRIPTION).write_text("{")
    another_version(lab)
    _, *rows = listing.lines(lab.stack)
    assert rows[0].startswith("first ") and rows[0].endswith("1.36.4      of another version of this program")
    assert rows[1].startswith("second ") and rows[1].endswith("damaged")
    assert [each.name for each in listing.readable(lab.stack)] == ["first"]
    assert "is damaged" in refusal(lambda: lab.rewind("second"))
    for name in ("first", "second"):
        store.remove(lab.stack, name)
    assert store.names(lab.stack) == [] and list(lab.saves.iterdir()) == []
    lab.save()
    assert store.remove_all(lab.stack) == ["good"] and not lab.saves.exists()
