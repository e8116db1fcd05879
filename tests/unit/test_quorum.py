"""The guard of etcd's quorum: its texts, run by a real shell."""

import os
import subprocess

import pytest

from components.quorum import refuse, remember
from unit.mocked_engine import Registered, Run

THREE = "a=1\nb=2\nc=3"
FIVE = f"{THREE}\nd=4\ne=5"


def shell(script: str, *, before: str = "", insist: str = "", stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", script],
        env={"PATH": os.environ["PATH"], "PULUMI_COMMAND_STDOUT": before, "INSIST": insist},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_up_is_remembered() -> None:
    assert shell(remember(THREE)).stdout.strip() == THREE


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (THREE, THREE),
        ("a=1", THREE),
        (THREE, FIVE),
        (FIVE, THREE),
        (THREE, "a=1\nb=2\nc=9"),
        (FIVE, "a=1\nb=2\nc=3\nd=8\ne=9"),
    ],
)
def test_what_keeps_the_quorum_may_happen(before: str, after: str) -> None:
    done = shell(refuse(after, {}), before=before)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == after


@pytest.mark.parametrize(
    ("before", "after", "gone", "needed"),
    [
        (THREE, "a=1", "b c", 2),
        (THREE, "a=1\nb=8\nc=9", "b c", 2),
        (FIVE, "a=1", "b c d e", 3),
        (FIVE, "a=1\nb=2\nf=6", "c d e", 3),
        ("a=1", "a=2", "a", 1),
    ],
)
def test_what_would_lose_it_is_refused(before: str, after: str, gone: str, needed: int) -> None:
    done = shell(refuse(after, {}), before=before)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"this would remove or recreate {gone}, and the quorum" in done.stderr
    assert f"members need {needed}" in done.stderr
    assert "nothing was changed" in done.stderr
    insisted = shell(refuse(after, {}), before=before, insist="yes")
    assert (insisted.returncode, insisted.stdout.strip()) == (0, after)


@pytest.mark.parametrize("insist", ["", "yes"])
@pytest.mark.parametrize(
    ("before", "after"), [("a=1", "b=1"), (THREE, "d=1\ne=2\nf=3"), ("a=1\nb=2", "c=1\nab=2"), ("a 1\nb 2", "c=1")]
)
def test_etcd_on_other_machines_is_refused_also_with_insist(before: str, after: str, insist: str) -> None:
    done = shell(refuse(after, {}), before=before, insist=insist)
    assert (done.returncode, done.stdout) == (1, "")
    assert "etcd cannot move to other machines while the lab is up" in done.stderr


# Each member's state, in a variable of its name.
ASK = 'can_ask() { :; }\nstate_of() { eval "echo \\$$1"; }'


@pytest.mark.parametrize(
    ("states", "after", "refused"),
    [
        ("a=healthy b=healthy c=healthy", "a=1\nb=2\nc=9", ""),
        # It is the one that is replaced.
        ("a=healthy b=healthy c=", "a=1\nb=2\nc=9", ""),
        ("a=healthy b= c=healthy", "a=1\nb=2\nc=9", "1 that stay are healthy. Not healthy: b."),
        ("a= b= c=", "a=1\nb=2", "0 that stay are healthy. Not healthy: a b."),
        # Nothing goes.
        ("a= b= c=", FIVE, ""),
        # The first `up` has failed: no machine has data.
        ("a=none b=none c=none", "a=1\nb=2\nc=9", ""),
        ("a=none b=none c=", "a=1\nb=2\nc=9", "0 that stay are healthy. Not healthy: a b."),
    ],
)
@pytest.mark.parametrize("between", ["=", " ", "[bootstrap=kubeadm] "])
def test_members_that_stay_must_be_healthy(states: str, after: str, refused: str, between: str) -> None:
    """Also where the record is of a lab of an earlier version."""
    before = THREE.replace("=", between)
    chosen = {"bootstrap": "kubeadm"} if "[" in between else {}
    text = refuse(after, chosen, f"{states.replace(' ', ';')}\n{ASK}")
    done = shell(text, before=before)
    assert (done.returncode, refused in done.stderr) == (1 if refused else 0, True), done.stderr
    assert not refused or "nothing was changed" in done.stderr
    assert shell(text, before=before, insist="yes").returncode == 0


def test_a_checkout_that_cannot_ask_compares_the_definitions() -> None:
    done = shell(refuse("a=1\nb=2\nc=9", {}, ask="can_ask() { false; }\nstate_of() { :; }"), before=THREE)
    assert (done.returncode, done.stdout.strip()) == (0, "a=1\nb=2\nc=9")


def local(run: Run, name: str) -> Registered:
    (found,) = (each for each in run.of_type("command:local:Command") if each.name == name)
    return found


def test_quorum_guard_comes_before_everything_that_changes_a_machine(ha: Run) -> None:
    assert not {"machines-network", "machines-controller-0"} & set(ha.before(local(ha, "machines-quorum")))
    for machine in ("controller-0", "worker-0", "load-balancer-0"):
        assert "machines-quorum" in ha.before(local(ha, f"machines-{machine}"))


def test_the_guard_runs_its_script_and_an_error_shows_none_of_it(dev: Run) -> None:
    guard = local(dev, "machines-quorum").inputs
    wanted = shell(guard["create"]).stdout.strip()
    kept = shell(guard["update"], before=wanted, stdin=guard["stdin"])
    assert (kept.returncode, kept.stdout.strip()) == (0, wanted)
    assert shell(guard["update"], before="controller-0 another", stdin=guard["stdin"]).returncode == 1
    assert "nothing was changed" not in guard["update"]


def test_another_definition_is_another_machine(ha: Run, dev: Run) -> None:
    texts = [local(run, "machines-quorum").inputs["create"] for run in (ha, dev)]
    assert [text.count("controller-") for text in texts] == [3, 1]
    assert texts[0].split("controller-0=")[1][:16] != texts[1].split("controller-0=")[1][:16]
