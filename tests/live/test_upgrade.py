"""`upgrade` without a lab: its plan, its stages, what one that stopped leaves to the next run, what is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from config import settings_file, upgrade_record
from config.machines import Role
from config.settings import readable, versions_of
from config.upgrade_record import UpgradeRecord
from config.version_changes import BY_PACKAGES
from config.versions import pins
from live import cluster, running_versions, snapshot, upgrade
from live.bring_up import Ended
from live.cluster import Cluster, LiveMachine
from live.running_versions import Running
from toolchain import operations, paths, version_changes
from toolchain import stack as stacks
from toolchain.errors import ToolchainError
from toolchain.stack import Stack

SETTINGS = "# The lab.\nconfig:\n  toy:lab:\n    workers: 2\n    versions:\n      kubernetes: 1.35.8 # for now\n"
OLD, NEW = "1.35.8", "1.36.4"
PROGRAMS = {
    "controller-0": ("kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    "worker-0": ("kubelet", "kube-proxy"),
    "worker-1": ("kubelet", "kube-proxy"),
}


class KilledError(Exception):
    """What ends a run in the middle."""


def ended(code: int) -> Ended:
    return Ended(code=code, seconds=(0, 0, 0))


class Lab:
    """A stack whose `up` only notes the versions that it is run with, and changes machines until one fails."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "Pulumi.dev.yaml"
        self.file.write_text(SETTINGS)
        self.ups: list[str] = []
        self.fails_at: str | None = None
        self.killed = False
        self.problems: list[str] = []
        self.bootstrap = "hard-way"
        self.made_by = ""
        self.dns = pins().images["coredns"].tag
        self.state = {"kubernetes": {OLD}, "etcd": {"3.6.14"}}
        self.runs = {"etcd": "3.6.14", **dict.fromkeys(PROGRAMS, OLD)}

    @property
    def stack(self) -> Stack:
        settings, _ = readable(settings_file.lab_of(self.file, "toy"))
        found = stacks.Stack(
            name="dev", project="toy", settings_file=self.file, substrate="containers", engine="podman", kubernetes="1"
        )
        return replace(
            found,
            versions=versions_of(settings),
            bootstrap=self.bootstrap,
            made_by=self.made_by,
            features=frozenset({self.bootstrap}),
        )

    @property
    def cluster(self) -> Cluster:
        machines = [
            LiveMachine(name=name, roles=frozenset({role}), address="10.0.0.1")
            for name, role in (
                ("controller-0", Role.CONTROLLER),
                ("worker-0", Role.WORKER),
                ("worker-1", Role.WORKER),
            )
        ]
        return Cluster(stack=self.stack, endpoint="https://10.0.0.5:6443", machines=machines)

    def running(self, _: object) -> list[Running]:
        etcd = Running(machine="controller-0", product="etcd", program="etcd", version=self.runs["etcd"])
        return [
            etcd,
            *(
                Running(machine=machine, product="kubernetes", program=program, version=self.runs[machine])
                for machine, programs in PROGRAMS.items()
                for program in programs
            ),
        ]

    def up(self, stack: Stack, options: tuple[str, ...] = ()) -> Ended:
        assert stack.versions is not None
        self.ups.append(" ".join([stack.versions["kubernetes"], *options]))
        if self.killed:
            raise KilledError
        self.state["kubernetes"].add(stack.versions["kubernetes"])
        for machine in PROGRAMS:
            if machine == self.fails_at:
                return ended(255)
            if not options or any(machine in option for option in options):
                self.runs[machine] = stack.versions["kubernetes"]
        if not options:
            self.state["kubernetes"] = {stack.versions["kubernetes"]}
        return ended(0)

    def check(self, *_: object) -> None:
        if self.problems:
            raise ToolchainError("\n".join(self.problems))


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path)
    (tmp_path / ".state" / "dev").mkdir(parents=True)

    @contextmanager
    def alone(*_: object) -> Iterator[None]:
        yield

    monkeypatch.delenv("INSIST", raising=False)
    monkeypatch.setattr(paths, "state", lambda: tmp_path / ".state")
    monkeypatch.setattr("config.paths.state", lambda: tmp_path / ".state")
    monkeypatch.setattr(operations, "alone", alone)
    monkeypatch.setattr(cluster, "find", lambda _: made.cluster)
    monkeypatch.setattr(running_versions, "ask", made.running)
    monkeypatch.setattr(running_versions, "coredns", lambda _: made.dns)
    monkeypatch.setattr(snapshot, "take", lambda *_: tmp_path / "snapshot.db")
    monkeypatch.setattr(upgrade, "recorded", lambda *_: {})
    monkeypatch.setattr(version_changes, "running", lambda _: {key: set(each) for key, each in made.state.items()})
    monkeypatch.setattr(upgrade, "check_health", made.check)
    monkeypatch.setattr(upgrade, "bring_up", made.up)
    monkeypatch.setattr(stacks, "read", lambda _: made.stack)
    return made


def run(lab: Lab, *words: str, preview: bool = False) -> int:
    return upgrade.upgrade(lab.stack, words, preview=preview)


def resume(lab: Lab, *, returning: bool = False, preview: bool = False) -> int:
    return upgrade.resume(lab.stack, returning=returning, preview=preview)


def refusal(change: Callable[[], object]) -> str:
    with pytest.raises(ToolchainError) as error:
        change()
    return str(error.value)


def test_the_plan_is_shown_before_anything_changes(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lab, NEW, preview=True) == 0
    assert capsys.readouterr().out.splitlines() == [
        "machine       product     from    to      restarts",
        "controller-0  kubernetes  1.35.8  1.36.4  kube-apiserver, kube-controller-manager, kube-scheduler",
        "worker-0      kubernetes  1.35.8  1.36.4  drain; kubelet, kube-proxy",
        "worker-1      kubernetes  1.35.8  1.36.4  drain; kubelet, kube-proxy",
    ]
    assert lab.ups == [] and lab.file.read_text() == SETTINGS and upgrade_record.read("dev") is None


def test_the_dns_is_in_the_plan_after_the_control_plane(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.dns = "v1.14.1"
    assert run(lab, NEW, preview=True) == 0
    last = capsys.readouterr().out.splitlines()[-1].split(maxsplit=4)
    assert last == ["(add-on)", "coredns", "v1.14.1", pins().images["coredns"].tag, "its pods, one after the other"]


def test_all_products_are_in_the_plan_in_the_order_of_their_groups(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"etcd": "3.6.13", "containerd": "2.3.3", "runc": "1.4.2", "cni-plugins": "1.9.0"}
    programs = [
        Running(machine="controller-0", product="etcd", program="etcd", version="3.6.13"),
        Running(machine="controller-0", product="kubernetes", program="kube-apiserver", version=OLD),
        Running(machine="worker-0", product="kubernetes", program="kubelet", version=OLD),
        Running(machine="worker-0", product="containerd", program="containerd", version="2.3.3"),
        Running(machine="worker-0", product="runc", program="runc", version="1.4.2", is_unit=False),
        Running(machine="worker-0", product="cni-plugins", program="CNI plugins", version="1.9.0", is_unit=False),
    ]
    monkeypatch.setattr(running_versions, "ask", lambda _: programs)
    lab.state = {"kubernetes": {OLD}, **{product: {version} for product, version in old.items()}}
    lab.dns = "v1.14.1"
    new = {product: pins().products[product].default for product in old}
    assert run(lab, NEW, *(f"{product}={version}" for product, version in new.items()), preview=True) == 0
    assert [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["controller-0", "etcd", "3.6.13", new["etcd"], "etcd"],
        ["(add-on)", "coredns", "v1.14.1", pins().images["coredns"].tag, "its pods, one after the other"],
        ["controller-0", "kubernetes", OLD, NEW, "kube-apiserver"],
        ["worker-0", "kubernetes", OLD, NEW, "drain; kubelet"],
        ["worker-0", "containerd", "2.3.3", new["containerd"], "drain; containerd"],
        ["worker-0", "runc", "1.4.2", new["runc"], "nothing: the next pods use it"],
        ["worker-0", "cni-plugins", "1.9.0", new["cni-plugins"], "nothing: the next pods use it"],
    ]


def test_an_upgrade_writes_the_version_and_keeps_no_record(lab: Lab) -> None:
    assert run(lab, NEW) == 0
    assert lab.ups == [NEW]
    assert lab.file.read_text() == SETTINGS.replace(OLD, NEW)
    assert upgrade_record.read("dev") is None
    assert run(lab, NEW) == 0
    assert lab.ups == [NEW], "it runs already"


def test_the_settings_file_alone_says_it_too(lab: Lab) -> None:
    lab.file.write_text(SETTINGS.replace(OLD, NEW))
    assert run(lab) == 0
    assert lab.ups == [NEW]


def test_one_group_of_products_changes_after_the_other(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def up(stack: Stack, options: tuple[str, ...] = ()) -> Ended:
        assert stack.versions is not None
        seen.append((stack.versions["etcd"], stack.versions["kubernetes"], stack.versions["containerd"]))
        return ended(0)

    monkeypatch.setattr(upgrade, "bring_up", up)
    lab.state = {"etcd": {"3.6.13"}, "kubernetes": {OLD}, "containerd": {"2.3.3"}}
    assert run(lab, "etcd=3.6.14", NEW, "containerd=2.3.4") == 0
    assert seen == [("3.6.14", OLD, "2.3.3"), ("3.6.14", NEW, "2.3.3"), ("3.6.14", NEW, "2.3.4")]


def test_an_upgrade_that_stops_says_where_it_stands_and_is_continued(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.fails_at = "worker-0"
    assert run(lab, NEW) == 255
    said = capsys.readouterr().out
    assert "The upgrade of the lab dev (kubernetes 1.35.8 to 1.36.4) is not finished." in said
    assert "worker-0  kubernetes  1.35.8  1.36.4  drain; kubelet, kube-proxy" in said.split("still change:")[1]
    assert "controller-0" not in said.split("still change:")[1]
    assert "--continue" in said and "--rollback" in said and "snapshot.db" in said
    # Neither a new one nor a downgrade without the record.
    assert "is not finished" in refusal(lambda: run(lab, NEW))
    assert upgrade_record.permitted("dev") == {"kubernetes": OLD}
    lab.fails_at = None
    assert resume(lab, preview=True) == 0
    assert lab.ups == [NEW]
    assert resume(lab) == 0
    assert lab.ups == [NEW, NEW]
    assert upgrade_record.read("dev") is None and upgrade_record.permitted("dev") == {}


def test_a_machine_that_is_lost_in_the_middle_is_named_and_the_upgrade_continues(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object, **__: object) -> Ended:
        raise ToolchainError("worker-0 does not answer any more.")

    with monkeypatch.context() as patched:
        patched.setattr(upgrade, "bring_up", lost)
        said = refusal(lambda: run(lab, NEW))
    assert said.startswith("worker-0 does not answer any more.\n")
    assert "The upgrade of the lab dev (kubernetes 1.35.8 to 1.36.4) is not finished." in said
    assert "--continue` continues it" in said and "--rollback" in said
    assert resume(lab) == 0
    assert lab.ups == [NEW]


def test_a_rollback_returns_to_the_versions_before_workers_first(lab: Lab) -> None:
    lab.fails_at = "worker-1"
    assert run(lab, NEW) == 255
    assert [lab.runs[each] for each in PROGRAMS] == [NEW, NEW, OLD]
    lab.fails_at = None
    assert resume(lab, returning=True) == 0
    # No kubelet may be newer than the API server.
    assert lab.ups == [NEW, f"{OLD} --target=**::worker-0-node", OLD]
    assert set(lab.runs.values()) == {OLD, "3.6.14"}
    assert lab.file.read_text() == SETTINGS
    assert upgrade_record.read("dev") is None


def test_a_kubelet_that_does_not_say_its_version_returns_before_the_control_plane(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was just restarting when the run was killed: it may be newer than the API servers will be."""
    lab.fails_at = "worker-1"
    assert run(lab, NEW) == 255
    lab.fails_at = None

    def running(cluster: object) -> list[Running]:
        silent = {"kubelet": running_versions.UNKNOWN}
        return [
            replace(each, version=silent.get(each.program, each.version)) if each.machine == "worker-0" else each
            for each in lab.running(cluster)
        ]

    monkeypatch.setattr(running_versions, "ask", running)
    assert resume(lab, returning=True) == 0
    assert lab.ups == [NEW, f"{OLD} --target=**::worker-0-node", OLD]


@pytest.mark.parametrize("returning", [False, True])
def test_a_run_that_was_killed_is_continued_or_rolled_back(lab: Lab, returning: bool) -> None:
    lab.killed = True
    with pytest.raises(KilledError):
        run(lab, NEW)
    lab.killed = False
    assert resume(lab, returning=returning) == 0
    assert set(lab.runs.values()) == {OLD if returning else NEW, "3.6.14"}


def test_a_rollback_that_was_killed_stays_a_rollback(lab: Lab) -> None:
    lab.fails_at = "worker-1"
    run(lab, NEW)
    lab.killed = True
    with pytest.raises(KilledError):
        resume(lab, returning=True)
    lab.killed, lab.fails_at = False, None
    assert resume(lab) == 0
    assert set(lab.runs.values()) == {OLD, "3.6.14"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["1.36.5"], "1.36.5 is not in config/versions.yaml"),
        (["haproxy=3.0.0"], "haproxy is no product of this lab"),
        ([NEW, f"kubernetes={NEW}"], "kubernetes is given twice"),
    ],
)
def test_words_that_are_no_version_are_refused(lab: Lab, words: list[str], why: str) -> None:
    assert why in refusal(lambda: run(lab, *words))
    assert lab.ups == [] and lab.file.read_text() == SETTINGS


@pytest.mark.parametrize("bootstrap", ["hard-way", "kubeadm"])
def test_a_downgrade_is_refused(lab: Lab, bootstrap: str) -> None:
    lab.bootstrap = bootstrap
    lab.state = {"kubernetes": {NEW}}
    assert "kubernetes 1.36.4 to 1.35.8: that is a downgrade" in refusal(lambda: run(lab, OLD))
    assert lab.ups == []


def test_a_lab_of_kubeadm_whose_programs_are_packages_is_refused(lab: Lab) -> None:
    lab.bootstrap, lab.made_by = "kubeadm", BY_PACKAGES
    assert "the versions of a running kubeadm lab with apt's packages are immutable" in refusal(lambda: run(lab, NEW))
    assert lab.ups == [] and lab.file.read_text() == SETTINGS


@pytest.mark.parametrize("bootstrap", ["hard-way", "kubeadm"])
def test_a_skipped_minor_version_is_refused(lab: Lab, bootstrap: str) -> None:
    lab.bootstrap, lab.state = bootstrap, {"kubernetes": {"1.34.9"}}
    assert "kubernetes 1.34.9 to 1.36.4: that skips a minor version" in refusal(lambda: run(lab, NEW))
    assert lab.ups == [] and lab.file.read_text() == SETTINGS


def test_another_product_of_a_lab_of_kubeadm_is_refused(lab: Lab) -> None:
    lab.bootstrap, lab.state = "kubeadm", {"kubernetes": {OLD}, "containerd": {"2.3.3"}}
    new = pins().products["containerd"].default
    said = refusal(lambda: run(lab, f"containerd={new}"))
    assert "in a running kubeadm lab only the version of kubernetes changes" in said
    assert lab.ups == [] and lab.file.read_text() == SETTINGS


def test_the_plan_of_a_lab_of_kubeadm_has_its_controllers_kubelet_and_no_dns(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.bootstrap, lab.dns = "kubeadm", "v1.14.1"
    monkeypatch.setitem(PROGRAMS, "controller-0", (*PROGRAMS["controller-0"], "kubelet", "kube-proxy"))
    assert run(lab, NEW, preview=True) == 0
    programs = "kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy"
    assert [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["controller-0", "kubernetes", OLD, NEW, programs],
        ["worker-0", "kubernetes", OLD, NEW, "drain; kubelet, kube-proxy"],
        ["worker-1", "kubernetes", OLD, NEW, "drain; kubelet, kube-proxy"],
    ]
    assert lab.ups == [] and lab.file.read_text() == SETTINGS


def test_a_lab_of_kubeadm_returns_its_kubelets_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.bootstrap = "kubeadm"
    monkeypatch.setitem(PROGRAMS, "controller-0", (*PROGRAMS["controller-0"], "kubelet", "kube-proxy"))
    lab.fails_at = "worker-1"
    assert run(lab, NEW) == 255
    lab.fails_at = None
    assert resume(lab, returning=True) == 0
    names = [f"--target=**::kubeadm-upgrade-kubelet-{each}" for each in ("controller-0", "worker-0")]
    assert lab.ups == [NEW, " ".join([OLD, *names]), OLD]
    assert set(lab.runs.values()) == {OLD, "3.6.14"}


def test_a_lab_that_does_not_work_is_not_changed(lab: Lab) -> None:
    lab.problems = ["worker-0 does not answer"]
    assert "worker-0 does not answer" in refusal(lambda: run(lab, NEW))
    assert lab.ups == [] and lab.file.read_text() == SETTINGS and upgrade_record.read("dev") is None


@pytest.mark.parametrize("returning", [False, True])
def test_without_a_record_there_is_nothing_to_continue(lab: Lab, returning: bool) -> None:
    assert "No upgrade of the lab dev is unfinished" in refusal(lambda: resume(lab, returning=returning))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"before": {"kubernetes": "1.35.8"}}'])
def test_a_record_that_is_damaged_permits_nothing(lab: Lab, text: str) -> None:
    upgrade_record.write("dev", UpgradeRecord(before={"kubernetes": OLD}, after={"kubernetes": NEW}, snapshot="x"))
    assert upgrade_record.permitted("dev") == {"kubernetes": OLD}
    (paths.state() / "dev" / "upgrade.json").write_text(text)
    assert upgrade_record.permitted("dev") == {}
