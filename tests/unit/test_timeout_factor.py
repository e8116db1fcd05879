"""`timeout_factor`: every deadline that a lab renders is multiplied, and nothing else changes."""

import json
import re
from functools import cache
from typing import Any

import pytest

from components.substrates.existing.plan import from_json
from config.lab import parse
from toolchain import paths
from unit.conftest import LABS, program
from unit.mocked_engine import Registered, Run, run_program

COMMANDS = ("command:local:Command", "command:remote:Command")
SHAPES = ["dev", "kubeadm-ha", "dedicated", "libvirt", "gcp", "own-test", "droplets-test"]
DEADLINE = re.compile(
    r"SECONDS \+ (\d+)|--timeout=(\d+)s|--request-timeout=(\d+)s|curl -\w+ (?:-m|--max-time) (\d+)|\+time=(\d+)"
    r"|timeout check (\d+)s|timeout (\d+) (?:podman|docker|ssh) |ssh_key -o BatchMode=yes -o ConnectTimeout=(\d+)"
)

# What `python -m components.substrates.existing` is given, in a shell's quotes.
PLAN = re.compile(r"'(\{\"stack\":.*?\})'")


@cache
def with_factor(stack: str, factor: int) -> Run:
    return run_program(stack, {**LABS[stack], "timeout_factor": factor})


def scripts(run: Run) -> dict[str, str]:
    """Command -> all that it runs, without the content of files."""
    return {each.name: _without_files(_read_by_bash(each)) for each in _all(run)}


def _read_by_bash(command: Registered) -> str:
    step = command.type == "command:remote:Command"
    return f"{command.script if step else command.inputs['create']}\n{command.inputs.get('delete', '')}"


def _all(run: Run) -> list[Registered]:
    return run.of_type(*COMMANDS)


def _without_files(script: str) -> str:
    return re.sub(r"(?ms)<<'?\\?'?'?END-OF-FILE.*?^END-OF-FILE", "", script)


def deadlines(script: str) -> list[int]:
    return [int(next(filter(None, found.groups()))) for found in DEADLINE.finditer(script)]


def test_factor_of_1_changes_nothing() -> None:
    """A lab that runs is not updated by it: the same settings, which are all that the program gets."""
    for stack in SHAPES:
        assert parse(stack, {**LABS[stack], "timeout_factor": 1}) == parse(stack, LABS[stack])
    assert registered(with_factor("dev", 1)) == registered(program("dev"))


@pytest.mark.parametrize("stack", SHAPES)
def test_every_deadline_of_a_slow_lab_is_longer(stack: str) -> None:
    before, after = scripts(program(stack)), scripts(with_factor(stack, 10))
    assert before.keys() == after.keys()
    assert sum(map(len, map(deadlines, before.values()))) >= 2
    for name, script in before.items():
        assert deadlines(after[name]) == [10 * seconds for seconds in deadlines(script)], name


@pytest.mark.parametrize("stack", SHAPES)
def test_every_step_of_a_slow_lab_says_so_before_it_begins(stack: str) -> None:
    own = 10 * (8 if LABS[stack].get("libvirt", {}).get("type") == "qemu" else 1)
    run = with_factor(stack, 10)
    steps = run.of_type("command:remote:Command")
    assert steps
    for step in steps:
        assert f"\nTIMEOUT_FACTOR={own}\nbegin " in step.script, step.name


@pytest.mark.parametrize("stack", SHAPES)
def test_a_dial_of_a_slow_lab_may_take_longer(stack: str) -> None:
    """Both of a jumpbox and of the machine."""
    own = 10 * (8 if LABS[stack].get("libvirt", {}).get("type") == "qemu" else 1)
    steps = with_factor(stack, 10).of_type("command:remote:Command")
    dials = [
        dial for step in steps for dial in (step.inputs["connection"], step.inputs["connection"].get("proxy")) if dial
    ]
    assert dials
    assert {dial["perDialTimeout"] for dial in dials} == {15 * own}


@pytest.mark.parametrize("stack", ["dev", "dedicated", "kubeadm-ha"])
def test_etcdctl_of_a_slow_lab_waits_longer(stack: str) -> None:
    """Also where people use it, and the timer of the snapshots."""
    run = with_factor(stack, 10)
    scripts = [step.script for step in run.of_type("command:remote:Command") if "ETCDCTL_KEY" in step.script]
    assert scripts
    for script in scripts:
        assert '\netcdctl() { command etcdctl --dial-timeout=20s --command-timeout=50s "$@"; }\n' in script


@pytest.mark.parametrize("stack", ["own-test", "droplets-test"])
def test_programs_for_existing_hosts_are_told_the_factor(stack: str) -> None:
    run = with_factor(stack, 10)
    plans = [found for each in _all(run) for found in PLAN.findall(_read_by_bash(each))]
    assert plans
    assert all(from_json(plan).timeout_factor == 10 for plan in plans)
    assert not any("timeout_factor" in _read_by_bash(each) for each in _all(program(stack)))


@pytest.mark.parametrize("stack", SHAPES)
def test_nothing_else_of_a_slow_lab_is_different(stack: str) -> None:
    before, after = registered(program(stack)), registered(with_factor(stack, 10))
    assert before.keys() == after.keys()
    for urn, inputs in before.items():
        assert without_deadlines(inputs) == without_deadlines(after[urn]), urn


def registered(run: Run) -> dict[str, Any]:
    return {each.urn: each.inputs for each in run.resources}


def without_deadlines(inputs: Any) -> str:
    lines = json.dumps(inputs, default=str, sort_keys=True).split("\\n")
    own = (
        "TIMEOUT_FACTOR=",
        "TimeoutStartSec=",
        "ExecStart=/usr/local/lib/hardway/etcd-snapshot ",
        "etcdctl() { command etcdctl ",
    )
    kept = [line for line in lines if not line.startswith(own)]
    # The question to etcd's members is one word of a command.
    text = re.sub(r"\bTIMEOUT_FACTOR=\d+", "", DEADLINE.sub("DEADLINE", "\n".join(kept)))
    text = re.sub(r'"perDialTimeout": \d+', "DEADLINE", text)
    text = re.sub(r',\\*"timeout_factor\\*":\d+', "", text)
    # In the report of a deadline that has passed, and the checksums of the containers' definitions.
    return re.sub(r"after \d+ s\b|\b[0-9a-f]{16}\b", "", text)


@pytest.mark.parametrize("verbs", ["step.sh", "etcd_health.sh", "etcd.sh", "nodes.sh", "worker.sh", "kubeadm.sh"])
def test_the_deadlines_of_the_verbs_know_the_factor(verbs: str) -> None:
    text = (paths.checkout() / "components" / verbs).read_text()
    wrong = [line for line in text.splitlines() if LITERAL.search(line)]
    assert not wrong


# `wait_for` and `await` multiply what they are given.
LITERAL = re.compile(
    r"SECONDS \+ \d+\)|\b(?:flock -w|read -r -t|timeout|-m|--max-time|--request-timeout) \d+\b"
    r"|[Tt]imeout=\d|_SECONDS=\d"
)
