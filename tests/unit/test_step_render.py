"""A step's script: what stands in it, in which order, and what is refused."""

import grp
import os
import pwd
import re
import subprocess
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from shlex import quote, split
from typing import Any

import pulumi
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pulumi_command import local, remote

from components.container_runtime import worker_verbs
from components.etcd import etcd_verbs
from components.host import Host, HostArgs, step_library
from components.machine import Machine
from components.step import Fetch, File, Step, StepArgs, Unit, render, render_undo, sent
from config.artifacts import Artifact
from config.machine_paths import LIBRARY
from config.machines import MachineSpec, Role
from lab.step_script import input_of
from toolchain import paths
from unit.mocked_engine import Registered, run

SPEC = MachineSpec(
    name="worker-0",
    fqdn="worker-0.unit.hardway.internal",
    roles=frozenset({Role.WORKER}),
    address=IPv4Address("10.240.0.20"),
    pod_cidr=None,
    key="lab.workers",
)
ARTIFACT = Artifact(url="https://dl.k8s.io/v1/kubelet", sha256="0" * 64)


def machine(**changes: Any) -> Machine:
    """A machine; its resource is made where a program runs."""
    settings: dict[str, Any] = {
        "spec": SPEC,
        "connection": remote.ConnectionArgs(host="10.240.0.20", host_key="ssh-ed25519 KEY", private_key="SSH"),
        "identity": "0123456789abcdef",
        "resource": None,
        "arch": "amd64",
        "interface": "eth0",
        "shares_kernel": True,
    }
    return Machine(**{**settings, **changes})


def args(**parts: Any) -> StepArgs:
    return StepArgs(**{"machine": machine(), "name": "unit", **parts})


def script(arguments: StepArgs, contents: dict[str, str] | None = None, run: str = "") -> str:
    return render(arguments, contents=contents or {}, identity="0123456789abcdef", before_start="", run=run)


def test_the_parts_stand_in_the_order_that_they_need() -> None:
    text = script(
        args(
            prepare="prepare-line",
            fetches=[Fetch(artifact=ARTIFACT, destination="/usr/local/bin/kubelet")],
            files=[File(path="/etc/a", content="x"), File(path="/etc/key", content="s", mode="0600", secret=True)],
            units=[
                Unit(
                    name="a.service",
                    content="[Unit]",
                    restarts_on=["/etc/a"],
                    reloads_on=["/etc/b", "/etc/c"],
                    valid="a --check",
                    ready="true",
                )
            ],
        ),
        {"/etc/a": "x"},
        run="run-line",
    )
    marks = [
        f". {LIBRARY}",
        "begin unit",
        "prepare-line",
        f"fetch https://dl.k8s.io/v1/kubelet {'0' * 64} /usr/local/bin/kubelet",
        "file /etc/a 0644 root",
        "secret /etc/key 0600 root",
        "file /etc/systemd/system/a.service",
        "unit a.service /etc/a",
        "reloads a.service /etc/b /etc/c",
        "valid a.service 'a --check'",
        "ready a.service 60 running true",
        "finish",
        "run-line",
    ]
    positions = [text.index(f"\n{mark}") for mark in marks]
    assert positions == sorted(positions)


def test_a_script_names_the_machines_identity() -> None:
    assert "(0123456789ab)" in script(args()).splitlines()[0]


def test_undoing_bears_a_machine_that_has_nothing_any_more() -> None:
    lines = render_undo(args(undo="undo-line")).splitlines()
    assert lines == [
        f"[ -e {LIBRARY} ] || exit 0",
        f". {LIBRARY}",
        "last_owner unit || exit 0",
        "undo-line",
        "undo unit",
    ]


@pytest.mark.parametrize("content", ["END-OF-FILE", "a\nEND-OF-FILE\nreboot", "a\rEND-OF-FILE"])
def test_a_file_cannot_end_its_own_content(content: str) -> None:
    with pytest.raises(ValueError, match="/etc/a holds the line END-OF-FILE"):
        script(args(files=[File(path="/etc/a", content=content)]))


def test_a_content_that_is_not_known_is_no_text() -> None:
    def program() -> None:
        with pytest.raises(TypeError, match="the content of /etc/a is not known"):
            script(args(files=[File(path="/etc/a", content=pulumi.Output.from_input("x"))]))

    run(program)


def test_a_secret_content_never_stands_in_the_script() -> None:
    assert "TOP" not in script(args(files=[File(path="/etc/a", content="TOP", secret=True)]), {"/etc/a": "TOP"})


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80).filter(
    lambda text: "END-OF-FILE" not in text
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(content=TEXT, path=st.text("abc $'\"\\;*", min_size=1, max_size=10))
@example(content="$(reboot) `reboot` \\ $HOME 'x' \"y\"", path="a b")
def test_bash_sees_any_content_as_it_is(content: str, path: str, tmp_path: Path) -> None:
    library = tmp_path / "library.sh"
    library.write_text(
        'begin() { :; }\nfinish() { :; }\nstart() { :; }\nsucceeded() { :; }\nfile() { printf "%s\\n" "$@"; cat; }\n'
    )
    text = script(args(files=[File(path=f"/etc/{path}", content=content)])).replace(LIBRARY, str(library))
    said = subprocess.run(["bash", "-c", text], capture_output=True, check=True).stdout.decode()
    assert said == f"/etc/{path}\n0644\nroot\n" + content.rstrip("\n") + "\n"


@given(check=st.text("abc $'\"\\;*()", min_size=1, max_size=20), means=st.text("ab '\"", max_size=10))
def test_a_check_arrives_as_one_word(check: str, means: str) -> None:
    text = script(args(units=[Unit(name="a.service", ready=check, ready_means=means, ready_seconds=7)]))
    line = text[text.index("\nready ") + 1 :].split("\nstart\n")[0].split("\nfinish\n")[0]
    assert split(line) == ["ready", "a.service", "7", means, check]
    assert quote(check) in line


def registered(make: Any) -> Registered:
    """The one step of a small program."""

    (step,) = (each for each in registered_all(make) if each.type == "command:remote:Command")
    return step


def registered_all(make: Any) -> Sequence[Registered]:
    """All resources of a small program."""

    def program() -> None:
        make(machine(resource=local.Command("container", create="true")))

    return run(program).resources


def test_one_secret_file_does_not_hide_the_script() -> None:
    def make(on: Machine) -> None:
        secret = File(path="/etc/b", content=pulumi.Output.secret("TOP"), secret=True)
        files = [File(path="/etc/a", content="plain"), secret]
        Step("step", StepArgs(machine=on, name="unit", files=files), pulumi.ResourceOptions())

    found = {each.type: each for each in registered_all(make)}
    step = found["command:remote:Command"]
    assert step.secret == {"stdin", "connection"}
    assert input_of(step.inputs["stdin"]) == "/etc/b VE9Q\n"
    shown = found["hardway:index:Script"]
    assert shown.inputs == {"script": step.script} and not shown.secret
    assert "plain" in step.script and "TOP" not in step.script


def test_the_command_line_names_the_step_and_holds_none_of_its_script() -> None:
    """The provider repeats it in every error."""
    step = registered(lambda on: Step("a", StepArgs(machine=on, name="unit", run="echo x"), pulumi.ResourceOptions()))
    assert step.inputs["create"] == "bash -s -- unit on worker-0"
    assert machine(user="admin").reads_script("unit on worker-0") == "sudo -n bash -s -- unit on worker-0"
    assert step.inputs["update"] == "bash -s -- unit on worker-0, updated"
    assert step.script.endswith('\necho x\nsucceeded "$@"\n') and not step.secret - {"connection"}


def bash_reads(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-s", "--", "a step"], input=text, capture_output=True, text=True, check=False)


def test_bash_runs_a_script_that_it_reads_and_the_script_reads_the_rest() -> None:
    script = "set -eu\necho before\ncat <<'END'\n}\nEND\nread -r line\necho \"got $line\"\n"
    done = bash_reads(sent(script, "/etc/a QQ==\nexit 9\n"))
    # What the script leaves of its input is no command.
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\n}\ngot /etc/a QQ==\n", "")


@pytest.mark.parametrize("line", ["exit 7", "(exit 7)", "set -e; (exit 7); true"])
def test_bash_ends_with_the_status_of_the_script(line: str) -> None:
    assert bash_reads(sent(f"{line}\n", "")).returncode == 7


def test_nothing_of_a_script_that_was_cut_short_is_run(tmp_path: Path) -> None:
    text = sent(f"touch {tmp_path}/run\necho run\n", "")
    for end in range(text.index("}; exit")):
        assert bash_reads(text[:end]).stdout == ""
    assert list(tmp_path.iterdir()) == []
    assert bash_reads(text).stdout == "run\n"


def test_the_library_travels_with_the_first_step_of_a_machine(tmp_path: Path) -> None:
    step = registered(lambda on: Host("host", HostArgs(machine=on, lab=[SPEC], not_before="2026-01-01T00:00:00Z")))
    lines = step.script.splitlines()
    assert lines[2] == f". {LIBRARY}"
    here = lines[1].replace(LIBRARY, f"{tmp_path}/step.sh")
    here = here.replace("root:root", f"{pwd.getpwuid(os.getuid()).pw_name}:{grp.getgrgid(os.getgid()).gr_name}")
    library = tmp_path / "step.sh"

    def bring() -> int:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", here], input=input_of(step.inputs["stdin"]), text=True, check=True
        )
        assert library.read_text() == step_library() and not library.is_symlink()
        assert library.stat().st_mode & 0o777 == 0o644
        return library.stat().st_ctime_ns

    first = bring()
    assert len(input_of(step.inputs["stdin"])) < library.stat().st_size / 2
    assert bring() == first, "what is there is not written again"
    library.chmod(0o600)
    bring()
    library.write_text("# another")
    bring()
    library.rename(tmp_path / "aside")
    library.symlink_to(tmp_path / "aside")
    bring()


@pytest.mark.parametrize(
    ("parts", "sent"),
    [
        (("replace.sh", "step.sh"), step_library),
        (("worker.sh", "worker_turns.sh"), worker_verbs),
        (("etcd_health.sh", "etcd.sh"), etcd_verbs),
    ],
)
def test_a_library_without_its_comments_has_the_same_functions(parts: tuple[str, ...], sent: Callable[[], str]) -> None:
    """A line of a text in the library that begins like a comment."""

    def functions(script: str) -> str:
        done = subprocess.run(
            ["bash", "--norc", "-c", f"TIMEOUT_FACTOR=1\n{script}\ndeclare -f; declare -p | grep -v ' _='"],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"]},
        )
        return re.sub(r"(?m)^declare .* (BASH\w*|EPOCH\w*|RANDOM|SRANDOM|SECONDS|PPID|LINENO)=.*$", "", done.stdout)

    whole = "\n".join((paths.checkout() / "components" / name).read_text() for name in parts)
    assert functions(whole) == functions(sent())
    assert len(sent()) < 0.75 * len(whole)
    assert "()" in functions(sent())


def test_a_machine_with_a_kernel_of_its_own_gets_modules_and_loses_swap_for_good() -> None:
    def make(on: Machine) -> None:
        own = machine(resource=on.resource, shares_kernel=False)
        Host("host", HostArgs(machine=own, lab=[SPEC], not_before="2026-01-01T00:00:00Z"))

    text = registered(make).script
    assert "\nmodules overlay br_netfilter nf_conntrack\nno_swap\n" in text
    assert "/etc/modules-load.d/hardway.conf" in text
    unit = text[text.index("file /etc/systemd/system/hardway-no-swap.service") :]
    assert "\nExecStart=/sbin/swapoff -a\n" in unit
    assert "WantedBy=multi-user.target" in unit


def test_a_machine_that_shares_its_kernel_leaves_swap_and_modules_to_its_host() -> None:
    step = registered(lambda on: Host("host", HostArgs(machine=on, lab=[SPEC], not_before="2026-01-01T00:00:00Z")))
    assert "swap" not in step.script
    assert "\nmodules " not in step.script
