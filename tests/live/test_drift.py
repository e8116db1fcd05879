"""`drift` on recorded answers: what is named and what is not, what is asked, and what `repair` runs for it."""

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small_lab import cluster

from cli.main import group, main
from config import machine_paths
from live import cluster as live_cluster
from live import power
from live.cluster import Cluster
from live.drift import all_machines, archives, compare, containers, look, nodes, objects, recorded, repair
from live.drift import run as drifts
from live.drift.compare import Difference
from live.drift.look import Entry, Found, UnitState
from live.drift.recorded import File, Program, Recorded, Setting, Step, Unit
from toolchain import operations, paths, prepare
from toolchain.errors import ToolchainError

SHA = "a" * 64
KEY = b"very secret"
CONFIG, BINARY, ARCHIVED = "/etc/x/config", "/usr/local/bin/x", "/usr/local/bin/y"
PACKED = f"{recorded.ARTIFACTS}/{SHA}/unpacked/bin/y"
LIBRARY = "fingerprint() {\n  :\n}\nlast_read() {\n  :\n}\n"
STARTED = "Sat 2026-11-28 21:00:00.500000 UTC"
START = 1795899600.5


def machine() -> Recorded:
    """A machine as the state says it is, with something of each kind."""
    return Recorded(
        name="worker-0",
        library=LIBRARY,
        files={
            CONFIG: File(step="s1", content=b"a\n", mode="600", owner="root"),
            "/etc/x/key": File(step="s1", content=KEY, mode="600", owner="root", secret=True),
            "/etc/x/reread": File(step="s1", content=b"", mode="644", owner="root"),
            "/var/lib/x": File(step="s1", content=None, mode="700", owner="x"),
            machine_paths.HOST_TABLE: File(step="s2", content=b"10.0.0.5 a\n10.0.0.6 b\n", mode="644", owner="root"),
            machine_paths.POD_ROUTES: File(
                step="s2", content=b"route replace 10.2.0.0/24 via 10.0.0.6 proto 240\n", mode="644", owner="root"
            ),
            machine_paths.MASQUERADE: File(step="s2", content=b"table ip hardway {}\n", mode="644", owner="root"),
        },
        programs={
            BINARY: Program(step="s1", target="/opt/mirror/x", sha256=SHA, mirrored=True),
            ARCHIVED: Program(step="s1", target=PACKED, sha256=SHA, archive="/opt/mirror/y.tgz", member="bin/y"),
        },
        units={
            "x.service": Unit(
                step="s1", step_name="x", own=(BINARY,), watches=(CONFIG,), reloads_on=("/etc/x/reread",)
            ),
            "timer": Unit(step="s1", step_name="x", watches=(CONFIG,)),
            "kubelet.service": Unit(step="s1", step_name="x", by_step=False),
            machine_paths.HOSTS_UNIT: Unit(step="s2", step_name="neighbours", reloads_on=(machine_paths.HOST_TABLE,)),
            machine_paths.POD_NETWORK_UNIT: Unit(
                step="s2", step_name="neighbours", reloads_on=(machine_paths.POD_ROUTES,)
            ),
        },
        links={"/etc/x/link": Setting(step="s1", value=CONFIG)},
        packages={"curl": Setting(step="s0", value="installed")},
        sysctls={"net.ipv4.ip_forward": Setting(step="s0", value="1")},
        modules={"overlay": Setting(step="s0", value=recorded.THERE)},
        users={"x": Setting(step="s1", value=recorded.THERE)},
        host_name=Setting(step="s0", value="worker-0"),
        no_swap=Setting(step="s0", value="off"),
    )


def answers() -> Found:
    """What that machine says of itself while nothing has changed."""
    said = machine()
    files = {
        path: Entry(
            kind="directory" if file.content is None else "regular file" if file.content else "regular empty file",
            mode=file.mode,
            user=file.owner,
            group=file.owner,
            changed=START - 10,
            sha256=file.sha256 if file.content is not None else "",
        )
        for path, file in said.files.items()
    }
    for path in ("/opt/mirror/x", "/opt/mirror/y.tgz", PACKED):
        files[path] = Entry(kind="regular file", mode="755", user="root", group="root", changed=0, sha256=SHA)
    return Found(
        files=files,
        members={PACKED: SHA},
        links={"/etc/x/link": CONFIG} | {path: each.target for path, each in said.programs.items()},
        units={
            name: UnitState(
                properties={
                    "Id": name,
                    "LoadState": "loaded",
                    "ActiveState": "active",
                    "NeedDaemonReload": "no",
                    "StateChangeTimestamp": STARTED,
                    "ActiveEnterTimestamp": STARTED,
                },
                enabled="enabled",
                same_as_started=True if unit.by_step else None,
                started=START + 1,
            )
            for name, unit in said.units.items()
        },
        values={
            ("package", "curl"): "installed",
            ("sysctl", "net.ipv4.ip_forward"): "1",
            ("module", "overlay"): recorded.THERE,
            ("user", "x"): recorded.THERE,
        },
        host_name="worker-0",
        hosts=["10.0.0.5 a", "10.0.0.6 b"],
        routes=["10.2.0.0/24 via 10.0.0.6 dev eth0"],
        same_table=True,
    )


def changed_file(path: str, **what: Any) -> Callable[[Found], None]:
    def change(found: Found) -> None:
        found.files[path] = replace(found.files[path], **what)

    return change


def restarted_by_hand(found: Found) -> None:
    """A file was edited, the unit restarted, and the file put back."""
    found.units["x.service"].started = START - 60
    found.files[CONFIG] = replace(found.files[CONFIG], changed=START + 3)


def timer_elapsed(found: Found) -> None:
    found.units["timer"].properties["StateChangeTimestamp"] = "Sat 2026-11-28 22:00:00.500000 UTC"
    found.files[CONFIG] = replace(found.files[CONFIG], changed=START + 7200)


def reloaded_late(found: Found) -> None:
    """haproxy says that it has reloaded when the step has noted it already; then `chmod`, and the mode put back."""
    unit = found.units[machine_paths.HOSTS_UNIT]
    unit.properties["StateChangeTimestamp"] = "Sat 2026-11-28 21:00:03.000000 UTC"
    found.files[machine_paths.HOST_TABLE] = replace(found.files[machine_paths.HOST_TABLE], changed=START + 60)


def unit(name: str, **properties: str) -> Callable[[Found], None]:
    return lambda found: found.units[name].properties.update(properties)


def gone(where: Callable[[Found], dict[Any, Any]], key: Any) -> Callable[[Found], None]:
    return lambda found: where(found).pop(key) and None


MUTATIONS: dict[str, tuple[Callable[[Found], Any], tuple[str, str, set[str]]]] = {
    "content": (changed_file(CONFIG, sha256=SHA), ("file", CONFIG, {"content"})),
    "secret": (changed_file("/etc/x/key", sha256=SHA), ("file", "/etc/x/key", {"content"})),
    "mode": (changed_file(CONFIG, mode="644"), ("file", CONFIG, {"mode"})),
    "user": (changed_file(CONFIG, user="x"), ("file", CONFIG, {"owner"})),
    "group": (changed_file(CONFIG, group="x"), ("file", CONFIG, {"owner"})),
    "link for a file": (changed_file(CONFIG, kind="symbolic link"), ("file", CONFIG, {"kind"})),
    "file removed": (gone(lambda found: found.files, CONFIG), ("file", CONFIG, {"missing"})),
    "directory": (changed_file("/var/lib/x", mode="755"), ("file", "/var/lib/x", {"mode"})),
    "artifact": (changed_file("/opt/mirror/x", sha256="b" * 64), ("program", BINARY, {"artifact"})),
    "program replaced": (lambda found: found.links.update({BINARY: ""}), ("program", BINARY, {"kind"})),
    "program elsewhere": (lambda found: found.links.update({BINARY: "/tmp/x"}), ("program", BINARY, {"target"})),
    "archive": (changed_file("/opt/mirror/y.tgz", sha256="b" * 64), ("program", ARCHIVED, {"artifact"})),
    "member": (changed_file(PACKED, sha256="b" * 64), ("program", ARCHIVED, {"content"})),
    "member removed": (gone(lambda found: found.files, PACKED), ("program", ARCHIVED, {"content"})),
    "member a link": (changed_file(PACKED, kind="symbolic link", sha256="b" * 64), ("program", ARCHIVED, {"content"})),
    "archive that no machine can read": (gone(lambda found: found.members, PACKED), ("program", ARCHIVED, {"archive"})),
    "link": (lambda found: found.links.update({"/etc/x/link": "/tmp"}), ("link", "/etc/x/link", {"target"})),
    "unit stopped": (unit("x.service", ActiveState="inactive"), ("unit", "x.service", {"stopped"})),
    "unit failed": (unit("kubelet.service", ActiveState="failed"), ("unit", "kubelet.service", {"stopped"})),
    "unit masked": (unit("x.service", LoadState="masked"), ("unit", "x.service", {"masked"})),
    "unit gone": (gone(lambda found: found.units, "x.service"), ("unit", "x.service", {"not-found"})),
    "unit not read": (unit("x.service", NeedDaemonReload="yes"), ("unit", "x.service", {"stale"})),
    "unit disabled": (
        lambda found: setattr(found.units["x.service"], "enabled", "disabled"),
        ("unit", "x.service", {"disabled"}),
    ),
    "unit of other files": (
        lambda found: setattr(found.units["x.service"], "same_as_started", False),
        ("unit", "x.service", {"stale"}),
    ),
    "unit that a repair has still to restart": (
        lambda found: setattr(found.units["kubelet.service"], "due", True),
        ("unit", "kubelet.service", {"stale"}),
    ),
    "edited, restarted, put back": (restarted_by_hand, ("unit", "x.service", {"stale"})),
    "package": (gone(lambda found: found.values, ("package", "curl")), ("package", "curl", {"missing"})),
    "package half there": (
        lambda found: found.values.update({("package", "curl"): "config-files"}),
        ("package", "curl", {"value"}),
    ),
    "sysctl": (
        lambda found: found.values.update({("sysctl", "net.ipv4.ip_forward"): "0"}),
        ("sysctl", "net.ipv4.ip_forward", {"value"}),
    ),
    "module": (gone(lambda found: found.values, ("module", "overlay")), ("module", "overlay", {"missing"})),
    "no user": (gone(lambda found: found.values, ("user", "x")), ("user", "x", {"missing"})),
    "host name": (lambda found: setattr(found, "host_name", "other"), ("host name", "worker-0", {"value"})),
    "swap": (lambda found: found.swap.append("/dev/sdb"), ("swap", "/dev/sdb", {"value"})),
    "host table, less": (lambda found: found.hosts.pop(), ("host table", "/etc/hosts", {"block"})),
    "host table, more": (lambda found: found.hosts.append("1.2.3.4 b"), ("host table", "/etc/hosts", {"block"})),
    "no route": (lambda found: found.routes.pop(), ("route", "10.2.0.0/24", {"missing"})),
    "other route": (
        lambda found: found.routes.__setitem__(0, "10.2.0.0/24 via 10.0.0.9 dev eth0"),
        ("route", "10.2.0.0/24", {"value"}),
    ),
    "further route": (
        lambda found: found.routes.append("10.9.0.0/24 via 10.0.0.6 dev eth0"),
        ("route", "10.9.0.0/24", {"extra"}),
    ),
    "rules": (lambda found: setattr(found, "same_table", False), ("rules", "table ip hardway", {"content"})),
}


def test_a_machine_as_the_state_says_has_no_drift() -> None:
    assert compare.compare(machine(), answers()) == []


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_change_is_named_and_nothing_else_is(mutation: str) -> None:
    change, expected = MUTATIONS[mutation]
    found = answers()
    change(found)
    (difference,) = compare.compare(machine(), found)
    assert (difference.kind, difference.name, set(difference.problems)) == expected
    assert difference.machine == "worker-0"
    assert KEY.decode() not in str(difference)


@pytest.mark.parametrize(
    "harmless",
    [
        # After a boot, or restarted by hand: the files are older.
        lambda found: setattr(found.units["x.service"], "started", START - 5),
        # A timer that has elapsed, and a file that was put back.
        timer_elapsed,
        # Edited and put back, and the unit has run all the time.
        changed_file(CONFIG, changed=START + 60),
        reloaded_late,
    ],
)
def test_a_unit_that_runs_what_is_on_disk_is_not_named(harmless: Callable[[Found], None]) -> None:
    found = answers()
    harmless(found)
    assert compare.compare(machine(), found) == []


@pytest.mark.parametrize(
    ("properties", "is_named"),
    [
        ({"LoadState": "loaded", "NeedDaemonReload": "no"}, False),
        ({"LoadState": "loaded", "NeedDaemonReload": "yes"}, True),
        ({"LoadState": "not-found", "NeedDaemonReload": "no"}, True),
    ],
)
def test_a_timer_is_named_if_systemd_has_not_read_what_it_starts(properties: dict[str, str], is_named: bool) -> None:
    """It starts the service as that was before, or not at all."""
    path = "/etc/systemd/system/timed.service"
    said, found = machine(), answers()
    said.units["timer"] = replace(said.units["timer"], watches=(CONFIG, path, f"{path}.d/10-more.conf"))
    said.files[path] = File(step="s1", content=b"[Service]\n", mode="644", owner="root")
    found.files[path] = replace(found.files[CONFIG], mode="644", sha256=said.files[path].sha256)
    found.units["timed.service"] = UnitState(properties=properties)
    named = [(each.name, set(each.problems)) for each in compare.compare(said, found)]
    assert named == ([("timer", {"stale"})] if is_named else [])
    del found.files[path]
    assert [each.name for each in compare.compare(said, found)] == [path], "the file alone"
    assert [line for line in look.questions(said).splitlines() if line.startswith("triggers ")] == [
        "triggers timed.service"
    ]


def test_a_unit_whose_file_is_a_link_is_not_named_as_disabled_too() -> None:
    """One change in two lines: systemd does not say of a link that it is enabled."""
    path = "/etc/systemd/system/x.service"
    said, found = machine(), answers()
    said.files[path] = File(step="s1", content=b"[Install]\n", mode="644", owner="root")
    said.units["x.service"] = replace(said.units["x.service"], own=(path,))
    found.files[path] = replace(found.files[CONFIG], kind="symbolic link")
    found.units["x.service"].enabled = ""
    assert [(each.kind, each.name) for each in compare.compare(said, found)] == [("file", path)]


def test_a_program_of_a_published_checksum_is_compared_with_the_directory_that_has_its_name() -> None:
    said = Recorded(name="a", programs={BINARY: Program(step="s", target=f"{recorded.ARTIFACTS}/*/x", sha256=None)})
    entry = Entry(kind="symbolic link", mode="777", user="root", group="root", changed=0, sha256=SHA)
    found = Found(files={BINARY: entry}, links={BINARY: f"{recorded.ARTIFACTS}/{SHA}/x"})
    assert compare.compare(said, found) == []
    found.files[BINARY] = replace(entry, sha256="b" * 64)
    (difference,) = compare.compare(said, found)
    assert set(difference.problems) == {"artifact"}
    (work,), _ = repair.plan([Step(urn="s", machine="a", name="x", script="")], {"a": said}, [difference])
    assert work.before == []


def test_a_downloaded_artifact_that_differs_is_downloaded_again() -> None:
    target = f"{recorded.ARTIFACTS}/{SHA}/x"
    said = Recorded(name="a", programs={BINARY: Program(step="s", target=target, sha256=SHA)})
    wrong = Difference(machine="a", kind="program", name=BINARY, problems={"artifact": ""}, step="s")
    (work,), _ = repair.plan([Step(urn="s", machine="a", name="x", script="")], {"a": said}, [wrong])
    assert work.before == [f"rm -f {target}"]


# look.sh


def look_at(questions: str, *, path: str = "", functions: str = "") -> list[str]:
    script = f"{functions}\n{look.LOOK.read_text()}"
    done = subprocess.run(
        ["bash", "-c", script],
        input=questions,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{path}:{os.environ['PATH']}"},
    )
    return done.stdout.splitlines()


def test_files_links_and_programs_of_a_machine_are_looked_at(tmp_path: Path) -> None:
    file, link, packed = tmp_path / "file", tmp_path / "link", tmp_path / "bin" / "y"
    file.write_text("a\n")
    file.chmod(0o640)
    link.symlink_to(file)
    packed.parent.mkdir()
    packed.write_text("program")
    archive = tmp_path / "y.tgz"
    with tarfile.open(archive, "w:gz") as written:
        written.add(packed, "bin/y")
        written.add(packed, "./bin/z")
    asked = f"hash {file}\nhash {tmp_path}/none\npath {tmp_path}\nlink {link}\nlink {file}\nlink {tmp_path}/none\n"
    asked += f"members {archive} bin/y bin/z bin/none\n"
    before = sorted(tmp_path.rglob("*"))
    found = look.parse(look_at(asked))
    assert (found.files[str(file)].mode, found.files[str(file)].kind) == ("640", "regular file")
    assert found.files[str(file)].sha256 == File(step="", content=b"a\n", mode="", owner="").sha256
    assert found.files[str(file)].changed == pytest.approx(file.stat().st_ctime, abs=0.01)
    assert found.files[str(tmp_path)].kind == "directory"
    assert f"{tmp_path}/none" not in found.files
    assert found.links == {str(link): str(file), str(file): ""}
    program = File(step="", content=b"program", mode="", owner="").sha256
    assert found.packed == {(str(archive), name): program for name in ("bin/y", "bin/z")}
    assert sorted(tmp_path.rglob("*")) == before


def test_units_are_compared_with_what_a_step_noted(tmp_path: Path) -> None:
    tool = tmp_path / "systemctl"
    tool.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n'
        'case $1 in is-enabled) echo enabled ;; show) printf "Id=a.service\\nLoadState=loaded\\nActiveState=active\\n'
        f'StateChangeTimestamp={STARTED}\\n\\nId=b.service\\nLoadState=not-found\\n" ;; esac\n'
    )
    tool.chmod(0o755)
    functions = "fingerprint() { echo new; }\nlast_read() { :; }"
    asked = "unit a.service node\ntriggers c.service\nunit b.service\n"
    found = look.parse(look_at(asked, path=str(tmp_path), functions=functions))
    state = found.units["a.service"]
    assert state.changed(reloads=True) == START
    assert (state.same_as_started, state.enabled) == (False, "enabled")
    assert found.units["b.service"].same_as_started is None
    shown, enabled, *_ = (tmp_path / "asked").read_text().splitlines()
    assert shown.endswith(" a.service b.service c.service") and enabled == "is-enabled a.service b.service"


def test_the_functions_of_the_library_need_no_others(tmp_path: Path) -> None:
    """Alone, as on a machine that is looked at, they say the same as in a step."""
    (tmp_path / "x.service").write_text(f"[Service]\nExecStart={tmp_path}/bin/x --flag\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "x").symlink_to("/opt/x-1/x")
    library = paths.checkout() / "components" / "step.sh"
    asked = f"UNIT_DIRECTORY={tmp_path}; declare -A watched=([x.service]='') reread=([x.service]={tmp_path}/x.service)"
    said = [
        subprocess.run(
            ["bash", "-euc", f"{before}\n{asked}\nfingerprint x.service\nlast_read x.service"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        for before in (f". {library}", "\n".join(look._functions(library.read_text())))
    ]
    assert said[0].stdout == said[1].stdout
    assert said[1].stderr == ""


def test_the_functions_come_from_the_library_of_the_lab() -> None:
    library = (Path(look.__file__).parents[2] / "components" / "step.sh").read_text()
    first, second = look._functions(library)
    assert first.startswith("fingerprint() {")
    assert second.startswith("last_read() {")
    assert first.endswith("\n}")


def answering(monkeypatch: pytest.MonkeyPatch, status: int, out: str, error: str = "") -> None:
    monkeypatch.setattr(Cluster, "ssh", lambda *_, **__: subprocess.CompletedProcess([], status, out, error))


@pytest.mark.parametrize(
    ("status", "out", "error", "why"),
    [
        (255, "", "ssh: connect to host 10.0.0.20 port 22: No route to host\n", "No route to host"),
        (0, "host_name\tworker-0\n", "", "ssh ended with status 0"),
        (1, "host_name\tworker-0\nend\n", "bash: cannot fork\n", "cannot fork"),
        (0, "", "", "status 0"),
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, out: str, error: str, why: str
) -> None:
    answering(monkeypatch, status, out, error)
    lab = cluster(tmp_path, controllers=1)
    found = look.ask(lab, lab.machine("worker-0"), machine())
    assert isinstance(found, str)
    assert why in found


def test_a_machine_without_steps_in_the_state_is_not_taken_as_unchanged(tmp_path: Path) -> None:
    lab = cluster(tmp_path, controllers=1)
    assert "the state has no steps" in str(look.ask(lab, lab.machine("worker-0"), None))
    before = Recorded(name="worker-0", library="# of a version without these functions")
    assert "an earlier library" in str(look.ask(lab, lab.machine("worker-0"), before))


# The API and the container engine


DIFF = """diff -u -N /tmp/LIVE-1/v1.ConfigMap.kube-system.coredns /tmp/MERGED-2/v1.ConfigMap.kube-system.coredns
--- /tmp/LIVE-1/v1.ConfigMap.kube-system.coredns\t2026
+++ /tmp/MERGED-2/v1.ConfigMap.kube-system.coredns\t2026
@@ -1,3 +1,3 @@
 data:
-  Corefile: x
+  Corefile: y
-  generation: 2
+  generation: 3
diff -u -N /tmp/LIVE-1/v1.ServiceAccount.kube-system.coredns /tmp/MERGED-2/v1.ServiceAccount.kube-system.coredns
--- /tmp/LIVE-1/v1.ServiceAccount.kube-system.coredns\t2026
+++ /tmp/MERGED-2/v1.ServiceAccount.kube-system.coredns\t2026
@@ -0,0 +1,2 @@
+apiVersion: v1
+kind: ServiceAccount
"""


def test_objects_that_differ_are_named_with_what_differs() -> None:
    first, second = objects.object_differences(DIFF, "s9")
    assert (first.name, dict(first.problems)) == (
        "v1.ConfigMap.kube-system.coredns",
        {"content": "differs (- there, + expected): - Corefile: x, + Corefile: y"},
    )
    assert (second.name, dict(second.problems)) == ("v1.ServiceAccount.kube-system.coredns", {"missing": "missing"})


CONTROL_PLANE = "node-role.kubernetes.io/control-plane"
PATCH: dict[str, Any] = {"metadata": {"labels": {"l": ""}}, "spec": {"podCIDR": "10.2.0.0/24"}}


def test_nodes_have_the_label_and_the_range_of_the_lab() -> None:
    said = nodes.Node(patches=[PATCH], step="s9")
    good: dict[str, Any] = {
        "metadata": {"name": "a", "labels": {"l": "", "other": "x"}},
        "spec": {"podCIDR": "10.2.0.0/24"},
    }
    bad: dict[str, Any] = {"metadata": {"name": "b"}, "spec": {"podCIDR": "10.9.0.0/24"}}
    found = list(nodes.differences(dict.fromkeys("abc", said), [good, bad]))
    assert [(each.name, set(each.problems)) for each in found] == [("b", {"value"}), ("c", {"missing"})]
    assert "metadata.labels.l is null" in found[0].problems["value"]
    assert 'spec.podCIDR is "10.9.0.0/24"' in found[0].problems["value"]


def by_kubeadm(tmp_path: Path) -> tuple[Cluster, dict[str, nodes.Node]]:
    """A lab whose Nodes no step repairs: of a controller, and of a worker."""
    lab = cluster(tmp_path, controllers=1, features=["kubeadm"])
    registered = {name: Setting(step="", value=json.dumps(PATCH)) for name in ("controller-0", "worker-0")}
    return lab, nodes.expected(lab, {"controller-0": Recorded(name="controller-0", nodes=registered)})


def test_nodes_of_controllers_have_the_taint_of_kubeadm(tmp_path: Path) -> None:
    _, said = by_kubeadm(tmp_path)
    taints = [{"key": "other", "effect": "NoExecute"}, {"key": CONTROL_PLANE, "effect": "NoSchedule"}]
    of_worker: dict[str, Any] = {"metadata": {"name": "worker-0", "labels": {"l": ""}}, "spec": PATCH["spec"]}
    of_controller: dict[str, Any] = {
        "metadata": {"name": "controller-0", "labels": {"l": "", CONTROL_PLANE: ""}},
        "spec": PATCH["spec"] | {"taints": taints},
    }
    assert list(nodes.differences(said, [of_controller, of_worker])) == []
    for left in (taints[:1], None):
        of_controller["spec"]["taints"] = left
        (difference,) = nodes.differences(said, [of_controller, of_worker])
        assert (difference.name, difference.problems["value"]) == (
            "controller-0",
            f"spec.taints has no {CONTROL_PLANE}:NoSchedule",
        )


def test_nodes_of_kubeadm_are_repaired_through_the_api(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is missing is registered by its kubelet first; where that fails, nothing more is tried."""
    lab, said = by_kubeadm(tmp_path)
    ran: list[str] = []
    fails = ""

    def answer(command: str) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        failed = bool(fails) and command.startswith(fails)
        return subprocess.CompletedProcess([], int(failed), "", "the reason" if failed else "")

    monkeypatch.setattr(Cluster, "kubectl", lambda _, *words, **__: answer(" ".join(words)))
    monkeypatch.setattr(Cluster, "change", lambda _, machine, script, **__: answer(f"{machine.name} {script}"))
    wrong = [
        Difference(machine="API", kind="node", name="controller-0", problems={"value": ""}),
        Difference(machine="API", kind="node", name="worker-0", problems={"missing": ""}),
        Difference(machine="worker-0", kind="container", name="c", problems={"definition": ""}),
    ]
    assert nodes.repair(lab, said, wrong) == []
    assert ran == [
        f"patch node/controller-0 -p {json.dumps(PATCH)}",
        f'patch node/controller-0 -p {{"metadata": {{"labels": {{"{CONTROL_PLANE}": ""}}}}, "spec": {{}}}}',
        f"taint nodes controller-0 {CONTROL_PLANE}:NoSchedule --overwrite",
        "worker-0 systemctl restart kubelet.service",
        "wait --for=create node/worker-0 --timeout=90s",
        f"patch node/worker-0 -p {json.dumps(PATCH)}",
    ]
    assert capsys.readouterr().out.splitlines() == [
        "API: node controller-0",
        "API: node worker-0; restarted kubelet.service on worker-0",
    ]
    fails = "wait"
    assert nodes.repair(lab, said, wrong[1:]) == ["node worker-0 was not repaired: the reason"]
    assert ran[-1].startswith("wait")


@pytest.mark.parametrize(("status", "error"), [(2, "error: no API"), (1, "error: connection refused")])
def test_an_api_that_cannot_be_asked_is_not_taken_as_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, error: str
) -> None:
    done = subprocess.CompletedProcess[str]([], status, "", error)
    monkeypatch.setattr(Cluster, "kubectl", lambda *_, **__: done)
    said = {"controller-0": Recorded(name="controller-0", objects={"/x.yaml": Setting(step="s", value="")})}
    assert objects.ask(cluster(tmp_path), said) == ([], error)


WORDS = ["--privileged", "--ulimit=nofile=20:20", "--volume=/mirror:/opt/mirror:ro", "--hostname=a", "--label=l=dev"]
WORDS += ["--network=net", "--volume=/var/lib/containerd", "--pids-limit=-1", "image:1"]


def container(**changes: Any) -> dict[str, Any]:
    host = {"Privileged": True, "Ulimits": [{"Name": "RLIMIT_NOFILE", "Soft": 20, "Hard": 20}], "PidsLimit": 0}
    mounts = [
        {"Destination": "/opt/mirror", "Source": "/mirror", "RW": False},
        {"Destination": "/var/lib/containerd", "Source": "/volumes/x", "RW": True},
    ]
    made = {
        "Id": "1",
        "State": {"Running": True},
        "HostConfig": host | changes.pop("host", {}),
        "Config": {"Hostname": "a", "Labels": {"l": "dev"}, "Image": "image:1"} | changes.pop("config", {}),
        "Mounts": mounts,
        "NetworkSettings": {"Networks": {"net": {}}},
    }
    return made | changes


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (None, "missing"),
        (container(Id="2"), "another container"),
        (container(State={"Running": False}), "does not run"),
        (container(config={"Image": "other:1"}), "image other:1, expected image:1"),
        (container(config={"Hostname": "b"}), "host name b"),
        (container(config={"Labels": {}}), "without the label l=dev"),
        (container(host={"Privileged": False}), "not privileged"),
        (container(host={"Ulimits": None}), "limit nofile is None, expected 20:20"),
        (container(host={"Memory": 5}), "Memory is limited"),
        (container(host={"PidsLimit": 2048}), "limit of processes 2048"),
        (container(Mounts=[]), "nothing is mounted on /opt/mirror"),
        (container(NetworkSettings={"Networks": {"net": {}, "other": {}}}), "also in the network other"),
    ],
)
def test_a_container_of_another_definition_is_named(found: dict[str, Any] | None, problem: str) -> None:
    assert problem in "; ".join(containers.problems_of(WORDS, "1", found))


_LIMITED = ["--cpus=2", "--memory=2048m", "--memory-swap=2048m", *WORDS]


@pytest.mark.parametrize(
    "host",
    [
        {"Memory": 2**31, "MemorySwap": 2**31, "NanoCpus": 2 * 10**9, "CpuQuota": 200000},
        {"Memory": 2**31, "MemorySwap": -1, "NanoCpus": 2 * 10**9},
    ],
    ids=["podman", "docker, on a host that does not account for swap"],
)
def test_limits_of_the_settings_are_no_drift(host: dict[str, int]) -> None:
    assert list(containers.problems_of(_LIMITED, "1", container(host=host))) == []


def test_other_limits_than_those_of_the_settings_are_named() -> None:
    host = {"Memory": 2**30, "MemorySwap": 2**30, "CpuShares": 7}
    assert list(containers.problems_of(_LIMITED, "1", container(host=host))) == [
        "CpuShares is limited: 7",
        f"Memory is {2**30}, expected {2**31}",
        "NanoCpus is not limited, expected 2000000000",
    ]


def test_a_user_who_does_not_see_the_containers_is_not_told_that_they_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urn = "urn:pulumi:x::hardway::hardway:index:Containers$command:local:Command::machines-worker-0"
    create = "# container hardway-x-worker-0\nas_root podman create \\\n  --privileged \\\n  image:1 >/dev/null\n"
    resource = {"urn": urn, "inputs": {"create": create}, "outputs": {"stdout": "1"}}
    deployment = {"deployment": {"resources": [resource]}}
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    different, why = containers.ask(cluster(tmp_path).stack, deployment)
    assert (different, "sudo" in why) == ([], True)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    answer = json.dumps([container(Id="2", Name="hardway-x-worker-0")])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, answer, ""))
    (difference,), why = containers.ask(cluster(tmp_path).stack, deployment)
    assert (difference.machine, difference.kind, why) == ("worker-0", "container", "")


def test_a_container_as_it_was_created_is_not_named() -> None:
    assert list(containers.problems_of(WORDS, "1", container())) == []


# Repair


STEPS = [
    Step(
        urn=f"s{number}",
        machine="worker-0",
        name=name,
        script=f'{{\n. lib\nbegin {name}\nfinish\nsucceeded "$@"\n}}; exit # x\n',
    )
    for number, name in enumerate(("host", "x", "neighbours"))
]


def planned(mutation: str) -> list[repair.Work]:
    change, _ = MUTATIONS[mutation]
    found = answers()
    change(found)
    works, left = repair.plan(STEPS, {"worker-0": machine()}, compare.compare(machine(), found))
    assert left == []
    return works


@pytest.mark.parametrize(
    ("mutation", "step", "restarts", "reloads"),
    [
        ("content", "x", ["x.service", "timer"], []),
        ("file removed", "x", ["x.service", "timer"], []),
        ("artifact", "x", ["x.service"], []),
        ("mode", "x", [], []),
        ("secret", "x", [], []),
        ("edited, restarted, put back", "x", ["x.service"], []),
        ("sysctl", "host", [], []),
        ("host table, more", "neighbours", [], [machine_paths.HOSTS_UNIT]),
        ("no route", "neighbours", [], [machine_paths.POD_NETWORK_UNIT]),
        ("rules", "neighbours", [], [machine_paths.POD_NETWORK_UNIT]),
    ],
)
def test_repair_runs_one_step_and_restarts_what_read_the_file(
    mutation: str, step: str, restarts: list[str], reloads: list[str]
) -> None:
    (work,) = planned(mutation)
    assert (work.step.name, work.restarts, work.reloads) == (step, restarts, reloads)
    notes = [f'rm -f "$step/started/{name}"' for name in restarts]
    notes += [f'rm -f "$step/started/{name}.read"' for name in reloads]
    begin = f"begin {step}\n"
    assert work.script == work.step.script.replace(begin, "\n".join([begin.strip(), *work.before, *notes]) + "\n")
    assert bool(work.before) == (mutation == "mode")


def test_what_a_step_does_not_see_by_itself_is_done_before_it() -> None:
    (work,) = planned("group")
    # What the units have read did not change, although the file's time of change does.
    notes = [f"/var/lib/hardway/steps/x/started/{name}" for name in ("x.service", "timer")]
    assert work.before == [
        # A user that is missing is made by the step.
        f"! id -u root >/dev/null 2>&1 || chown --no-dereference root:root {CONFIG}",
        *(f"touch --no-create {note} {note}.read" for note in notes),
    ]
    (work,) = planned("member")
    assert work.before == [f"rm -rf {recorded.ARTIFACTS}/{SHA}/unpacked"]
    (work,) = planned("unit disabled")
    assert work.before == ["systemctl -q enable --no-reload x.service 2>/dev/null || true"]
    (work,) = planned("unit failed")
    assert (work.before, work.restarts) == ([], [])
    assert work.script.endswith(
        'systemctl daemon-reload\nsystemctl restart kubelet.service\nrm -f "$step/due/kubelet.service"\n'
        'succeeded "$@"\n}; exit # x\n'
    )
    assert 'begin x\ninstall -d "$step/due"; touch "$step/due/kubelet.service"\n' in work.script
    (work,) = planned("artifact")
    assert work.before == [], "the mirror is not the machine's"


def test_steps_run_in_the_order_of_the_state_and_a_container_is_left() -> None:
    wrong = [
        Difference(machine="worker-0", kind="host table", name="/etc/hosts", problems={}, step="s2"),
        Difference(machine="worker-0", kind="container", name="c", problems={}),
        Difference(machine="worker-0", kind="sysctl", name="a", problems={}, step="s0"),
    ]
    works, left = repair.plan(STEPS, {"worker-0": machine()}, wrong)
    assert [work.step.name for work in works] == ["host", "neighbours"]
    assert [each.name for each in left] == ["c"]


def test_a_step_does_not_wait_for_what_a_later_one_repairs() -> None:
    """A restart of etcd that waits in vain for an API server without its key, which comes after it."""
    wrong = [
        Difference(machine="worker-0", kind="sysctl", name="a", problems={}, step="s0"),
        Difference(machine="worker-0", kind="file", name="/etc/x/key", problems={"missing": "missing"}, step="s1"),
    ]
    first, last = repair.plan(STEPS, {"worker-0": machine()}, wrong)[0]
    assert set(first.repaired_later) >= {"x.service"} and last.repaired_later == []
    assert f"begin host\nrepaired_later='{' '.join(first.repaired_later)}'\n" in first.script
    assert "repaired_later" not in last.script


@pytest.mark.parametrize("recovers", [True, False])
def test_a_step_that_fails_runs_once_more_after_a_later_one_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovers: bool
) -> None:
    """A member of etcd that waits for another one, whose files are repaired after it."""
    wrong = [
        Difference(machine="worker-0", kind="sysctl", name="a", problems={}, step="s0"),
        Difference(machine="worker-0", kind="host table", name="/etc/hosts", problems={}, step="s2"),
    ]
    works, _ = repair.plan(STEPS, {"worker-0": machine()}, wrong)
    ran: list[str] = []

    def ssh(_: Cluster, machine: Any, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        ran.append(script.split()[4])
        failed = ran[-1] == "host" and not (recovers and "neighbours" in ran)
        return subprocess.CompletedProcess([], int(failed), "", "the reason\n")

    monkeypatch.setattr(Cluster, "ssh", ssh)
    said = repair.run(cluster(tmp_path), works).lines()
    assert ran == ["host", "neighbours", "host"]
    assert said == ([] if recovers else ["step host on worker-0 failed: the reason"])


@pytest.mark.parametrize(
    ("unit", "leader", "waits"),
    [
        ("etcd.service", "kube-scheduler.service", True),
        ("kube-apiserver.service", "kube-scheduler.service", True),
        ("nginx.service", "kube-scheduler.service", False),
        ("etcd.service", "etcd.service", False),
    ],
)
@pytest.mark.parametrize("leads", [True, False])
def test_a_repair_waits_for_leaders_that_may_end_after_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unit: str,
    leader: str,
    waits: bool,
    leads: bool,
) -> None:
    """A controller manager that ends some seconds after "No drift"; a wait in a lab up to etcd, which has none."""
    units = {name: Unit(step="s1", step_name="x") for name in (unit, leader)}
    said = {"controller-0": Recorded(name="controller-0", library=LIBRARY, units=units)}
    stopped = Difference(machine="controller-0", kind="unit", name=unit, problems={"stopped": "stopped"}, step="s1")
    looks: list[list[Difference]] = [[], [stopped]]
    asked: list[object] = []

    def missing(*_: object) -> list[str]:
        asked.append(looks)
        assert len(looks) == 1, "after the repair, before the comparison"
        return [] if leads else ["kube-scheduler has no leader"]

    lab = cluster(tmp_path)
    monkeypatch.setattr(Cluster, "ssh", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    monkeypatch.setattr(drifts, "_LEADERS_SECONDS", 0)
    monkeypatch.setattr(drifts, "_find", lambda *_: a_drift(differences=looks.pop()))
    monkeypatch.setattr(drifts, "state_of", lambda _: {})
    monkeypatch.setattr(recorded, "steps", lambda _: [replace(each, machine="controller-0") for each in STEPS])
    monkeypatch.setattr(recorded, "read", lambda _: said)
    monkeypatch.setattr(live_cluster, "find", lambda _, **given: lab)
    monkeypatch.setattr(power, "leaders_missing", missing)
    code = drifts.repair(lab.stack, [])
    assert bool(asked) == waits
    assert code == (drifts.FOUND if waits and not leads else drifts.NONE)
    assert ("kube-scheduler has no leader" in capsys.readouterr().out) == (waits and not leads)


@pytest.mark.parametrize(("problems", "restarts"), [({"disabled"}, []), ({"disabled", "stopped"}, ["kubelet.service"])])
def test_a_unit_that_no_step_starts_is_restarted_only_if_it_does_not_run(
    problems: set[str], restarts: list[str]
) -> None:
    """The kubelet of a lab by kubeadm. One that is only not enabled runs."""
    said = dict.fromkeys(problems, "")
    difference = Difference(machine="worker-0", kind="unit", name="kubelet.service", problems=said, step="s1")
    (work,), _ = repair.plan(STEPS, {"worker-0": machine()}, [difference])
    assert (work.restarts, work.restarts_itself) == ([], restarts)
    assert work.before == ["systemctl -q enable --no-reload kubelet.service 2>/dev/null || true"]


def test_a_missing_node_restarts_the_kubelet_that_registers_it() -> None:
    node = Difference(machine="API", kind="node", name="worker-0", problems={"missing": "missing"}, step="s2")
    works, _ = repair.plan(STEPS, {"worker-0": machine()}, [node])
    restarted = [(work.step.name, [*work.restarts, *work.restarts_itself]) for work in works]
    assert restarted == [("x", ["kubelet.service"]), ("neighbours", [])]


def test_secrets_of_a_step_stand_in_no_command_line_and_in_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def ssh(_: Cluster, machine: Any, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        given.update(options, script=script)
        return subprocess.CompletedProcess([], 0, "a secret that it prints", "")

    monkeypatch.setattr(Cluster, "ssh", ssh)
    (work,) = planned("content")
    assert repair.run(cluster(tmp_path), [work]).lines() == []
    assert given["script"] == "exec bash -s -- x on worker-0, updated"
    assert given["stdin"] == work.script
    assert capsys.readouterr().out == f"worker-0: file {CONFIG}; restarted x.service; restarted timer\n"


def test_a_step_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, 1, "out", "first\nthe reason\n")
    (failed,) = repair.run(cluster(tmp_path), planned("content")).lines()
    assert failed == "step x on worker-0 failed: first\nthe reason"


def test_a_machine_that_is_lost_in_the_middle_is_one_report_and_the_next_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report for each of its steps, each after a timeout of its own; other machines that are left as they are."""
    steps = [*STEPS, Step(urn="s3", machine="controller-0", name="x", script="begin x\n")]
    said = {"worker-0": machine(), "controller-0": Recorded(name="controller-0")}
    wrong = [
        Difference(
            machine=each.machine, kind="package", name=f"p{number}", problems={"missing": "missing"}, step=each.urn
        )
        for number, each in enumerate(steps)
    ]
    silent = {"worker-0": 1}
    ran: list[str] = []

    def ssh(_: Cluster, machine: Any, script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["keepalive"]
        if machine.name in silent and silent[machine.name] == len(ran):
            ran.append(f"lost {machine.name}")
            return subprocess.CompletedProcess([], 255, "", "Warning\nTimeout, server worker-0 not responding.\n")
        ran.append(script.removeprefix("exec bash -s -- "))
        return subprocess.CompletedProcess([], 0, "", "")

    def found(*_: Any) -> drifts.Drift:
        done = {name for name in ran if not name.startswith("lost")}
        left = [
            each
            for each, step in zip(wrong, steps, strict=True)
            if f"{step.name} on {step.machine}, updated" not in done
        ]
        # After it was lost, nothing is known of it.
        away = [name for name in silent if f"lost {name}" in ran]
        return a_drift(
            differences=[each for each in left if each.machine not in away],
            not_asked=dict.fromkeys(away, "no route"),
        )

    lab = cluster(tmp_path)
    monkeypatch.setattr(Cluster, "ssh", ssh)
    monkeypatch.setattr(drifts, "_find", found)
    monkeypatch.setattr(drifts, "state_of", lambda _: {})
    monkeypatch.setattr(recorded, "steps", lambda _: steps)
    monkeypatch.setattr(recorded, "read", lambda _: said)
    monkeypatch.setattr(live_cluster, "find", lambda _, **given: lab)
    assert drifts.repair(lab.stack, []) == drifts.NOT_ASKED
    assert ran == ["host on worker-0, updated", "lost worker-0", "x on controller-0, updated"]
    assert capsys.readouterr().out.splitlines() == [
        "worker-0: package p0",
        "controller-0: package p3",
        "worker-0 was not reached any more: Timeout, server worker-0 not responding. "
        "Not repaired there: package p1, package p2. When it answers, run `./hardway repair` again.",
    ]
    silent.clear()
    assert drifts.repair(lab.stack, []) == drifts.NONE
    assert ran[3:] == ["x on worker-0, updated", "neighbours on worker-0, updated"]
    assert "No drift" in capsys.readouterr().out


# The command


def a_drift(**what: Any) -> drifts.Drift:
    return drifts.Drift(**{"stack": "dev", "differences": [], "not_asked": {}, **what})


DIFFERENCE = Difference(
    machine="worker-0", kind="file", name=CONFIG, problems={"content": "content differs"}, step="s1"
)


@pytest.mark.parametrize(
    ("found", "code", "last"),
    [
        (a_drift(), 0, "No drift: the lab dev is as its state says."),
        (
            a_drift(differences=[DIFFERENCE]),
            1,
            "1 difference. `./hardway repair -s dev` puts back what the state says.",
        ),
        (a_drift(not_asked={"worker-0": "no route"}), 2, "worker-0 could not be asked: no route"),
        (
            a_drift(differences=[DIFFERENCE], not_asked={"API": "refused"}),
            2,
            "1 difference. `./hardway repair -s dev` puts back what the state says.",
        ),
    ],
)
def test_the_exit_code_says_whether_there_is_drift(
    monkeypatch: pytest.MonkeyPatch, found: drifts.Drift, code: int, last: str
) -> None:
    monkeypatch.setattr(drifts, "find", lambda _: found)
    said = CliRunner().invoke(group, ["drift", "-s", "dev"], standalone_mode=False)
    assert said.return_value == code
    assert said.output.splitlines()[-1] == last
    said = CliRunner().invoke(group, ["drift", "-s", "dev", "--json"], standalone_mode=False)
    assert said.return_value == code
    document = json.loads(said.output)
    assert list(document) == ["stack", "differences", "not_asked"]
    if found.differences:
        assert document["differences"][0]["problems"] == {"content": "content differs"}


def test_a_lab_that_is_not_up_is_not_a_lab_without_drift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(_: Any) -> drifts.Drift:
        raise ToolchainError("The lab dev is not up.")

    monkeypatch.setattr(drifts, "find", find)
    assert main(["drift", "-s", "dev"]) == drifts.NOT_ASKED
    assert capsys.readouterr().err == "error: The lab dev is not up.\n"


def test_machines_that_mount_one_mirror_compute_each_checksum_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that sees another file by that name is not given it; a first one that does not answer gives none."""
    program = {BINARY: Program(step="s1", target="/opt/mirror/x", sha256=SHA, mirrored=True)}
    lab = cluster(tmp_path)
    names = [each.name for each in lab.machines if each.name.startswith("controller")]
    said = {name: Recorded(name=name, library=LIBRARY, programs=program) for name in names}
    asked: dict[str, str] = {}
    inodes = dict(zip(names, ("1", "1", "2"), strict=True))

    def ssh(_: Cluster, machine: Any, __: str, *, stdin: str, **___: Any) -> subprocess.CompletedProcess[str]:
        asked[machine.name] = stdin
        lines = [
            f"path\t/opt/mirror/x\tregular file\t755\troot\troot\t1.0\t{inodes.get(machine.name)}",
            f"link\t{BINARY}\t/opt/mirror/x",
        ]
        lines += [f"hash\t/opt/mirror/x\t{SHA}"] if "hash " in stdin else []
        status = 255 if machine.name == silent else 0
        return subprocess.CompletedProcess([], status, "\n".join([*lines, "end"]), "no route")

    monkeypatch.setattr(Cluster, "ssh", ssh)

    def different() -> dict[str, list[set[str]]]:
        answers = all_machines.ask(lab, said)
        return {
            name: [set(each.problems) for each in compare.compare(said[name], found) if each.kind == "program"]
            for name in names
            if not isinstance(found := answers[name], str)
        }

    silent = ""
    assert different() == {names[0]: [], names[1]: [], names[2]: [{"artifact"}]}
    assert [name for name in names if "hash /opt/mirror/x" in asked[name]] == names[:1]
    silent = names[0]
    assert different() == {names[1]: [], names[2]: []}


def test_one_machine_reads_each_archive_and_the_next_run_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a damaged archive has is not taken; where the first machine does not answer, another one reads."""
    monkeypatch.setenv("HARDWAY_CACHE", str(tmp_path / "cache"))
    lab = cluster(tmp_path, controllers=3)
    names = [each.name for each in lab.machines if each.name.startswith("controller")]
    programs = [
        {
            f"/usr/local/bin/{name}": Program(
                step="s1",
                target=f"{recorded.ARTIFACTS}/{SHA}/unpacked/bin/{name}",
                sha256=SHA,
                archive="/opt/mirror/y.tgz",
                member=f"bin/{name}",
                mirrored=True,
            )
        }
        for name in "yz"
    ]
    of_each = dict(zip(names, ({**programs[0]}, {**programs[1]}, {**programs[0], **programs[1]}), strict=True))
    said = {name: Recorded(name=name, library=LIBRARY, programs=each) for name, each in of_each.items()}
    archive, silent, changed = SHA, "", ""
    read: list[str] = []

    def ssh(_: Cluster, machine: Any, __: str, *, stdin: str, **___: Any) -> subprocess.CompletedProcess[str]:
        lines = []
        for line in stdin.splitlines():
            kind, path, *members = line.split()
            if kind == "link":
                lines.append(f"link\t{path}\t{of_each[machine.name][path].target}")
            elif kind == "members":
                read.append(machine.name)
                lines += [f"packed\t{path}\t{member}\t{'c' * 64}" for member in members]
            else:
                lines.append(f"path\t{path}\tregular file\t755\troot\troot\t1.0\t1")
                sha256 = archive if path.endswith(".tgz") else ("d" if machine.name == changed else "c") * 64
                lines += [f"hash\t{path}\t{sha256}"] if kind == "hash" else []
        status = 255 if machine.name == silent else 0
        return subprocess.CompletedProcess([], status, "\n".join([*lines, "end"]), "no route")

    monkeypatch.setattr(Cluster, "ssh", ssh)

    def different() -> dict[str, list[set[str]]]:
        read.clear()
        answers = all_machines.ask(lab, said)
        return {
            name: [set(each.problems) for each in compare.compare(said[name], found)]
            for name in names
            if not isinstance(found := answers[name], str)
        }

    archive = "b" * 64
    assert {str(each) for each in different().values()} == {"[{'artifact'}]", "[{'artifact'}, {'artifact'}]"}
    archive, silent = SHA, names[0]
    assert different() == {names[1]: [], names[2]: []}
    assert read == [names[0], names[1]]
    silent, changed = "", names[2]
    assert different() == {names[0]: [], names[1]: [], names[2]: [{"content"}, {"content"}]}
    assert read == []
    (tmp_path / "cache" / "members" / f"{SHA}.json").write_text("damaged")
    assert different() == {names[0]: [], names[1]: [], names[2]: [{"content"}, {"content"}]}
    assert read == [names[0]]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARDWAY_CACHE", str(tmp_path / "file"))
    members = archives.known([machine()])
    assert members.lacks(SHA)
    members.learn(SHA, {"bin/y": "c" * 64})
    assert not members.lacks(SHA)


@pytest.mark.parametrize(("status", "asked"), [(0, True), (255, False)])
def test_a_preview_shows_drift_if_it_is_asked_to(monkeypatch: pytest.MonkeyPatch, status: int, asked: bool) -> None:
    """A preview without --drift that connects to a machine; a preview that failed, and its reason far above a table."""
    looked: list[str] = []

    def find(stack: Any) -> drifts.Drift:
        looked.append(stack.name)
        return a_drift(differences=[DIFFERENCE])

    monkeypatch.setattr(prepare, "for_preview", lambda *_: None)
    monkeypatch.setattr(operations, "preview", lambda *_, **__: status)
    monkeypatch.setattr(drifts, "find", find)
    said = CliRunner().invoke(group, ["preview", "-s", "dev", "--drift"], standalone_mode=False)
    assert said.return_value == status
    assert bool(looked) == ("content differs" in said.output) == asked
    looked.clear()
    said = CliRunner().invoke(group, ["preview", "-s", "dev"], standalone_mode=False)
    assert (said.return_value, looked) == (status, [])
