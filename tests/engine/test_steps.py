"""Steps, from the engine to a real machine: what they leave there, what they report, and that they go again."""

import hashlib
import io
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace

import asyncssh
import pytest

from components.step import Fetch, File, Unit
from components.systemd import oneshot_unit, systemd_unit
from config.artifacts import Artifact
from engine.artifact_server import Artifacts, serving
from engine.container_host import GATEWAY, ContainerHost
from engine.project import Project
from engine.step_lab import StepLab
from engine.step_program import Work
from lab.polling import eventually


def private_key() -> str:
    return asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key("pkcs8-pem").decode()


def unit(name: str, *, program: str = "/opt/cni/demo/serve", **flags: int) -> Unit:
    """A unit whose program takes any flag."""
    content = systemd_unit(description=name, documentation="man:sleep(1)", program=program, flags=flags)
    return Unit(name=f"{name}.service", content=content)


SECRET, NEXT_SECRET = private_key(), private_key()
# Neither text nor a line feed at its end.
OLD = b"\xff\x00 what stood there before the lab"

SERVE = File(path="/opt/cni/demo/serve", content="#!/bin/sh\nexec sleep infinity", mode="0755")
KEY = File(path="/etc/hardway/demo/key", content=SECRET, mode="0400", owner="demo", secret=True)
PLAIN = File(path="/etc/hardway/demo/deep/er/plain", content="plain text\n")
FIRST = Work(
    name="first",
    prepare="user demo /var/lib/cni\ndata /var/lib/cni\ninstall -d -o demo /var/lib/cni",
    files=[
        SERVE,
        File(path="/etc/systemd/old.conf", content="new"),
        KEY,
        PLAIN,
    ],
    units=[unit("one", port=1, verbosity=2), unit("two", port=2)],
    run="echo the first step is done",
)
SECOND = Work(
    name="second",
    prepare="packages hw-demo",
    # In a directory that the first step may have made, or may have to make.
    files=[File(path="/opt/cni/demo/second", content="")],
    units=[
        Unit(
            name="kernel.service",
            content=oneshot_unit(
                description="What a kernel holds",
                start=[
                    f"/sbin/ip route replace 10.248.1.0/24 via {GATEWAY}",
                    "/usr/sbin/nft add table ip demo",
                    "/bin/mount -t tmpfs demo /mnt",
                ],
                stop=["/sbin/ip route del 10.248.1.0/24", "/usr/sbin/nft delete table ip demo", "/bin/umount /mnt"],
            ),
        )
    ],
)

# A package, and a place to install it from that needs no network.
REPOSITORY = """
mkdir -p /opt/debian/hw-demo/DEBIAN /opt/debian/hw-demo/usr/share/hw-demo
cd /opt/debian
echo demo >hw-demo/usr/share/hw-demo/demo
printf '%s\\n' 'Package: hw-demo' 'Version: 1' 'Architecture: all' 'Maintainer: nobody' 'Description: demo' \\
  >hw-demo/DEBIAN/control
dpkg-deb --root-owner-group -b hw-demo hw-demo.deb >/dev/null
{ cat hw-demo/DEBIAN/control
  printf '%s\\n' 'Filename: ./hw-demo.deb' "Size: $(stat -c %s hw-demo.deb)" \\
    "SHA256: $(sha256sum hw-demo.deb | cut -d ' ' -f 1)"; } >Packages
rm -rf /etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/opt/debian ./' >/etc/apt/sources.list
"""
# What changes while steps come and go, and is not of their making.
PASSING = (
    # Logs and caches, and what apt, dpkg and useradd keep of the state before their last change.
    "file: /run/log/journal/",
    "file: /run/systemd/journal/synced ",
    "file: /var/log/",
    "file: /var/cache/apt/",
    "file: /var/lib/apt/lists/",
    "file: /var/lib/dpkg/status-old ",
    *(f"file: /etc/{name}- " for name in ("passwd", "shadow", "group", "gshadow")),
    # A count of what passes.
    "sysctl: net.netfilter.nf_conntrack_count ",
    # Where `mount` keeps its notes.
    "file: /run/mount ",
    # Reached when the first unit asked for it, for as long as the machine runs.
    "unit: network-online.target ",
)
# Each run of a step writes into its lock who holds it.
LOCK = re.compile(r"file: /var/lib/hardway/steps/[^/]+/lock ")


@pytest.fixture(scope="module")
def machine() -> Iterator[ContainerHost]:
    with ContainerHost() as started:
        started.bash(REPOSITORY)
        started.bash("sysctl -q -w net.ipv4.ip_forward=0")
        started.path("/etc/systemd/old.conf").write_bytes(OLD)
        started.bash("chown daemon /etc/systemd/old.conf; chmod 0640 /etc/systemd/old.conf")
        yield started


@pytest.fixture(scope="module")
def before(machine: ContainerHost) -> set[str]:
    """The machine, before any step was there."""
    return machine.listing()


@pytest.fixture(scope="module")
def lab(
    empty_project: Project, machine: ContainerHost, before: set[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StepLab]:
    project = empty_project.copy(tmp_path_factory.mktemp("steps"))
    with StepLab(project, machine, [SECRET, NEXT_SECRET]) as started:
        yield started


def test_files_and_units_are_as_they_were_written(lab: StepLab) -> None:
    """A wrong mode, owner or content; a unit that does not run; a second `up` that does it all again."""
    lab.has(FIRST, SECOND)

    assert lab.host.file("/opt/cni/demo/serve") == ("755", "root:root", "#!/bin/sh\nexec sleep infinity\n")
    assert lab.host.file("/etc/hardway/demo/key") == ("400", "demo:demo", SECRET)
    assert lab.host.file("/etc/systemd/old.conf") == ("644", "root:root", "new\n")
    assert lab.host.file(PLAIN.path) == ("644", "root:root", PLAIN.content)
    starts = [lab.host.invocation(f"{name}.service") for name in ("one", "two", "kernel")]
    assert all(starts)
    assert lab.host.bash("systemctl is-enabled one two kernel").split() == ["enabled"] * 3
    assert "ip_forward = 1" in lab.host.bash("sysctl net.ipv4.ip_forward")

    again = lab.up().output
    assert "6 unchanged" in again and "updat" not in again.partition("Resources:")[2], again
    assert starts == [lab.host.invocation(f"{name}.service") for name in ("one", "two", "kernel")]


def test_a_changed_flag_restarts_its_own_unit_only(lab: StepLab) -> None:
    """A preview that hides what changes; a change that affects other things."""
    lab.has(FIRST, SECOND)
    before = {name: lab.host.invocation(f"{name}.service") for name in ("one", "two", "kernel")}
    lab.wants(replace(FIRST, units=[unit("one", port=1, verbosity=4), unit("two", port=2)]), SECOND)

    preview = lab.preview().output
    lines = [line.strip() for line in preview.splitlines()]
    assert "-   --verbosity=2" in lines and "+   --verbosity=4" in lines, preview
    # The step, whose input is secret as a whole, and the resource that shows its script.
    assert "~ 2 to update" in lines and "4 unchanged" in lines, preview
    assert "::first]" in preview and "::second]" not in preview
    assert before["one"] == lab.host.invocation("one.service"), "a preview changed the machine"

    assert "~ 2 updated" in lab.up().output
    after = {name: lab.host.invocation(f"{name}.service") for name in ("one", "two", "kernel")}
    assert after["one"] and {name for name in before if before[name] != after[name]} == {"one"}
    assert "--verbosity=4" in lab.host.bash("systemctl show -P ExecStart one.service")


def test_a_unit_that_hides_a_packages_own_is_the_one_that_runs(lab: StepLab) -> None:
    """systemd goes on with the file that it read when the package came."""
    packaged = lab.host.path("/lib/systemd/system/hides.service")
    packaged.write_text("[Service]\nExecStart=/bin/sleep 4242\n")
    lab.host.bash("systemctl start hides.service")
    try:
        lab.has(replace(FIRST, units=[unit("hides", port=7)]), SECOND)
        assert "--port=7" in lab.host.bash("systemctl show -P ExecStart hides.service")
        assert lab.host.bash("systemctl is-active hides.service").strip() == "active"
    finally:
        lab.has(FIRST, SECOND)
        packaged.unlink()
        lab.host.bash("systemctl daemon-reload")


def test_what_a_step_no_longer_has_goes(lab: StepLab) -> None:
    """Files and units that stay behind; a file of the machine's own that is lost."""
    lab.has(FIRST, SECOND)
    assert lab.host.path("/etc/systemd/old.conf").read_bytes() != OLD
    lab.has(replace(FIRST, files=[SERVE], units=[unit("two", port=2)]), SECOND)

    for path in ("/etc/hardway/demo", "/etc/systemd/system/one.service"):
        assert not lab.host.path(path).exists(), path
    state = lab.host.bash("systemctl show -P LoadState -P ActiveState one.service").split()
    assert state == ["not-found", "inactive"]
    assert lab.host.invocation("two.service")
    assert lab.host.path("/etc/systemd/old.conf").read_bytes() == OLD
    assert lab.host.bash("stat -c '%a %U:%G' /etc/systemd/old.conf") == "640 daemon:root\n"


def test_a_unit_that_does_not_serve_is_reported(lab: StepLab) -> None:
    """An error that does not say which unit, on which machine, what was missing and what the unit says itself."""
    # The sum is in its log only.
    content = systemd_unit(
        description="Fails", documentation="man:sh(1)", program="/bin/sh -c 'echo attempt $((40 + 2)); exit 3'"
    )
    failing = Unit(
        name="bad.service", content=content, ready="[ -e /run/greeting ]", ready_means="a greeting", ready_seconds=3
    )
    lab.wants(Work(name="failing", files=[replace(KEY, owner="root")], units=[failing]))

    report = lab.up(ok=False).output
    assert 'Process exited with status 1: running "bash -s -- failing on bare-0":\n' in report, report
    assert "\nbegin failing" not in report and "\\nbegin failing" not in report, "the error repeats the script"
    assert "bad.service on bare-0: a greeting not seen within 3 s" in report, report
    assert "the last lines of its log:\n" in report and "attempt 42" in report.partition("of its log:")[2], report

    repaired = replace(failing, content=content.replace("exit 3", "exec sleep infinity"), ready=None)
    lab.has(Work(name="failing", files=[replace(KEY, owner="root")], units=[repaired]))
    assert lab.host.invocation("bad.service")


HOPELESS = {
    "not executable": (unit("hopeless", program="/opt/cni/demo/data").content, "status 203/EXEC"),
    "missing": (unit("hopeless", program="/no/such/program").content, "status 203/EXEC"),
    "directory": (
        systemd_unit(
            description="Fails",
            documentation="man:sleep(1)",
            program="/bin/sleep infinity",
            service={"WorkingDirectory": "/no/such/directory"},
        ),
        "status 200/CHDIR",
    ),
    "user": (
        systemd_unit(
            description="Fails",
            documentation="man:sleep(1)",
            program="/bin/sleep infinity",
            service={"User": "no-such-user"},
        ),
        "status 217/USER",
    ),
    "oneshot": (oneshot_unit(description="Fails", start=["/bin/false"]), "failed (exit-code)"),
}


@pytest.mark.parametrize("kind", HOPELESS)
def test_a_unit_that_systemd_cannot_run_fails_at_once(lab: StepLab, kind: str) -> None:
    """Waiting for the deadline: no later try can succeed."""
    content, reason = HOPELESS[kind]
    hopeless = Unit(name="hopeless.service", content=content, ready="false", ready_means="an answer", ready_seconds=120)
    data = File(path="/opt/cni/demo/data", content="no program")
    name = f"hopeless-{kind.replace(' ', '-')}"
    lab.wants(Work(name=name, files=[data], units=[hopeless]))
    began = time.monotonic()
    report = lab.up(ok=False).output
    assert time.monotonic() - began < 60
    assert "hopeless.service on bare-0: " in report and reason in report, report
    assert "the last lines of its log:\n" in report, report

    repaired = unit("hopeless", program="/bin/sleep infinity")
    lab.has(Work(name=name, files=[data], units=[repaired]))
    assert lab.host.invocation("hopeless.service")


def test_a_step_that_failed_midway_is_completed(lab: StepLab) -> None:
    """Half a step that the next `up` trips over."""
    half = Work(
        name="half",
        files=[replace(SERVE, path="/opt/cni/half"), replace(PLAIN, path="/etc/hardway/half")],
        units=[unit("half", program="/opt/cni/half")],
        run="cat /no/such/file",
    )
    lab.wants(half)
    failed = lab.up(ok=False).output
    assert "/no/such/file: No such file or directory" in failed
    start = lab.host.invocation("half.service")
    assert start

    lab.has(replace(half, run="cat /etc/hardway/half"))
    assert lab.host.invocation("half.service") == start
    assert lab.project.resources()["command:remote:Command::half"]["outputs"]["stdout"] == "plain text"


@pytest.mark.long
def test_old_flags_that_are_put_back_after_a_failed_update_are_applied(lab: StepLab) -> None:
    """The engine keeps the old inputs, and finds no change; the unit runs on with the bad flags."""
    ready = "systemctl show -P ExecStart flags.service | grep -q -e --port=1"
    good = replace(unit("flags", port=1), ready=ready, ready_means="the right port", ready_seconds=2)
    bad = replace(unit("flags", port=2), ready=ready, ready_means="the right port", ready_seconds=2)
    lab.has(Work(name="flags", files=[SERVE], units=[good]))
    lab.wants(Work(name="flags", files=[SERVE], units=[bad]))
    assert "flags.service on bare-0: the right port not seen" in lab.up(ok=False).output
    assert "--port=2" in lab.host.bash("systemctl show -P ExecStart flags.service")

    lab.wants(Work(name="flags", files=[SERVE], units=[good]))
    repaired = lab.up().output
    assert "~ 1 updated" in repaired, repaired
    assert "--port=1" in lab.host.bash("systemctl show -P ExecStart flags.service")
    assert "unchanged" in lab.up().output.partition("Resources:")[2].split("\n")[1]


@pytest.mark.parametrize("parallel", ["64", pytest.param("1", marks=pytest.mark.long)])
def test_a_step_that_plain_pulumi_replaces_stays_on_its_machine(lab: StepLab, parallel: str) -> None:
    """The engine creates the new resource, and then runs the deletion of the old one."""
    lab.has(FIRST, SECOND)
    before = lab.host.invocation("one.service")
    replaced = lab.project.pulumi(
        "up", "--yes", "--skip-preview", "--parallel", parallel, "--replace", "**::first", ok=True
    ).output
    # The step, and the resource that shows its script.
    assert "+-2 replaced" in replaced, replaced
    assert lab.host.file(SERVE.path) == ("755", "root:root", "#!/bin/sh\nexec sleep infinity\n")
    assert lab.host.invocation("one.service") == before
    assert "unchanged" in lab.up().output.partition("Resources:")[2].split("\n")[1]


def test_a_step_that_the_state_has_lost_is_taken_over(lab: StepLab) -> None:
    lab.has(FIRST, SECOND)
    before = lab.host.invocation("one.service")
    urn = lab.project.resources()["command:remote:Command::first"]["urn"]
    lab.project.pulumi("state", "delete", urn, "--yes", ok=True)
    assert "+ 1 created" in lab.up().output
    assert lab.host.invocation("one.service") == before
    # As where the count is too high: nothing is removed; what leaves the host undoes it.
    lab.has(SECOND)
    assert lab.host.path(SERVE.path).exists()
    lab.host.bash("HARDWAY=/var/lib/hardway; . /usr/local/lib/hardway/step.sh; sole_owner=yes; undo first")
    assert not lab.host.path(SERVE.path).exists()


WAITS = Work(
    name="waits",
    files=[PLAIN],
    run="touch /run/waits\nwait_for 60 'the word to go' '[ -e /run/go ]'\necho gone",
    undo="rm -f /run/go /run/waits",
)


@pytest.mark.parametrize("script_lives", [True, False], ids=["script lives", "script dies too"])
def test_a_killed_engine_is_no_harm(lab: StepLab, script_lives: bool) -> None:
    """A step that the next `up` does not finish; two runs of one step at the same time; a wait without end."""
    lab.has()
    lab.wants(WAITS)
    engine = lab.start()
    # A shell that has not yet read its whole script runs none of it once the engine is dead.
    eventually("the script waits", lambda: lab.host.path("/run/waits").exists(), seconds=40, pause=0.05)
    lab.kill(engine)
    assert lab.runs("bash -s -- waits on"), "the script has ended with its engine: this test shows nothing"
    if not script_lives:
        lab.host.bash("pkill -9 -f 'bash -s -- waits on'")

    again = lab.start()
    lab.eventually_runs("flock -w 300 9" if script_lives else "bash -s -- waits on")
    lab.host.bash("touch /run/go")
    assert again.wait(300) == 0
    assert not lab.runs("bash -s -- waits on")
    assert "unchanged" in lab.up().output


def test_another_host_key_is_refused(lab: StepLab) -> None:
    """A connection to any host that answers at the address."""
    lab.has(FIRST, SECOND)
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    # The journal may not have read all yet that was said to it.
    accepted = "journalctl --sync && journalctl -q -u ssh -o cat --no-pager | grep -c ^Accepted"
    logins = lab.host.bash(accepted)

    refused = lab.up_with(replace(lab.plan, connection=replace(lab.plan.connection, host_key=other))).output

    assert "Host key is not trusted" in refused and "root@10.248.0.2:22" in refused, refused
    assert lab.host.bash(accepted) == logins


def test_secrets_are_seen_nowhere(lab: StepLab) -> None:
    """A secret in the state, in what the engine says, or on a command line, where everybody on the machine reads it."""
    lab.has(FIRST)
    lab.wants(replace(FIRST, files=[SERVE, replace(KEY, content=NEXT_SECRET)]))
    assert "[secret]" in lab.preview().output
    lab.up()
    assert lab.host.file(KEY.path)[2] == NEXT_SECRET

    # The search would find them where they are in clear.
    assert lab.shows_secret(NEXT_SECRET) and lab.shows_secret(lab.host.connection.private_key)
    assert any("bash -s -- first on" in line for line in lab.command_lines), "no script was seen"
    assert not lab.shows_secret("\n".join(lab.command_lines))
    assert not lab.shows_secret(lab.project.pulumi("stack", "export", ok=True).output)
    assert not lab.shows_secret(lab.project.state.read_text())


def test_artifacts_come_over_http(lab: StepLab) -> None:
    """A good file that is refused, an archive that is not unpacked, a connection that breaks once."""
    with serving(GATEWAY) as server:
        fetches = [
            Fetch(artifact=publish(server, "/tool", b"tool"), destination="/opt/cni/f/tool"),
            Fetch(artifact=replace(publish(server, "/sum", b"sum"), sha256="published"), destination="/opt/cni/f/sum"),
            Fetch(artifact=publish(server, "/cut", b"c" * 100_000), destination="/opt/cni/f/cut"),
            Fetch(
                artifact=publish(server, "/all.tar.gz", archive({"bin/a": b"a", "bin/b": b"b", "c": b"c"})),
                destination="/opt/cni/f/members",
                members=["bin/a", "c"],
            ),
        ]
        server.cuts["/cut"] = 1
        lab.has(Work(name="artifacts", fetches=fetches))
        assert server.asked.count("/cut") == 2

    found = lab.host.bash("cd /opt/cni/f; cat tool sum members/a members/c; wc -c <cut; ls members; stat -L -c %a tool")
    assert found == "toolsumac100000\na\nc\n755\n"


def test_an_artifact_with_another_checksum_is_never_used(lab: StepLab) -> None:
    """A forged file in its place, or one that stays in place of the good one."""
    with serving(GATEWAY) as server:
        good = Fetch(artifact=publish(server, "/good", b"good"), destination="/opt/cni/f/good")
        lab.wants(Work(name="forged", fetches=[good]))
        server.files["/good"] = b"evil"
        report = lab.up(ok=False).output
        assert f"{server.url}/good has the sha256 {hashlib.sha256(b'evil').hexdigest()}, expected " in report, report
        assert not lab.host.succeeds("[ -e /opt/cni/f/good ] || [ -L /opt/cni/f/good ]")

        server.files["/good"] = b"good"
        lab.up()
    assert lab.host.bash("cat /opt/cni/f/good") == "good"


def test_a_clock_before_the_authorities_birth_is_reported(lab: StepLab) -> None:
    """Certificates that are not valid yet on a machine, and look broken everywhere but there."""
    lab.has(FIRST, SECOND)

    report = lab.up_with(replace(lab.plan, not_before="2099-01-01T00:00:00Z")).output

    assert "the clock of bare-0 says " in report
    assert "but the lab was made at 2099-01-01T00:00:00Z: set the clock" in report


def test_destroy_leaves_the_machine_as_it_was(lab: StepLab, before: set[str]) -> None:
    """Whatever a step, or one of the tests above, leaves behind."""
    lab.has(FIRST, SECOND)
    made = lab.host.listing() - before
    for what in ("package: hw-demo", "route: 10.248.1.0/24", "nft: table ip demo", "mount: /mnt", "unit: one.service"):
        assert any(line.startswith(what) for line in made), what

    lab.destroy()

    # systemd and the kernel forget some time later what nobody uses any more.
    eventually(
        "the machine as it was", lambda: not changes(lab, before), seconds=30, report=lambda: changes(lab, before)
    )


def changes(lab: StepLab, before: set[str]) -> str:
    """What differs from before, and does not pass by itself."""
    after = lab.host.listing()
    gone, new = (
        {line for line in lines if not line.startswith(PASSING) and not LOCK.match(line)}
        for lines in (before - after, after - before)
    )
    return "\n".join(["gone:", *sorted(gone), "new:", *sorted(new)]) if gone or new else ""


def publish(server: Artifacts, path: str, content: bytes) -> Artifact:
    """Have a file on the server, and its checksum beside it."""
    sha256 = hashlib.sha256(content).hexdigest()
    server.files |= {path: content, f"{path}.sha256": sha256.encode()}
    return Artifact(url=f"{server.url}{path}", sha256=sha256)


def archive(members: dict[str, bytes]) -> bytes:
    """A tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
