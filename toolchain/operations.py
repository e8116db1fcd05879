"""`up`, `replace`, `preview` and `destroy` of one stack by the real `pulumi` command, one at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

from config import told_outputs
from config.chapters import VARIABLE
from toolchain import (
    chapters,
    choices,
    first_up,
    frozen,
    gcp_strays,
    halted,
    libvirt_strays,
    older_labs,
    orphans,
    paths,
    program_host,
    pulumi_home,
    rotations,
    stack_lock,
    standin_servers,
    state,
    version_changes,
    whose,
)
from toolchain.command import ask
from toolchain.engine_output import readable
from toolchain.errors import ToolchainError
from toolchain.exclusive import HeldError, held_or_refused, holder
from toolchain.prepare import Workshop
from toolchain.program_host import ProgramHost
from toolchain.recovery import (
    clear_stale_locks,
    drop_torn_attributes,
    is_absent,
    pending_operations,
    recorded,
    repair_torn_state,
    state_file,
)
from toolchain.stack import Stack
from toolchain.state import settings_file_kept

# What a machine is, as a resource.
_STRAYS = {"gcp": gcp_strays, "libvirt": libvirt_strays}
"""Provider plugin that takes over nothing -> what removes what a killed run has made and the state does not have."""
# As the CLI says it.
_WRONG_PASSPHRASE = "incorrect passphrase"
# How long an interrupted CLI may take to end.
_INTERRUPT_SECONDS = 20.0
# The outputs are shown as a summary (access.py), or kept.
_UNASKED = ("--yes", "--skip-preview", "--suppress-outputs")
# 64 operations side by side: remote commands mostly wait, and one machine's are few.
_AT_ONCE = (*_UNASKED, "--parallel=64")

# The engine saves the state when the run ends, however it ends, and not before and after each resource.
_ONE_SAVE = {"PULUMI_SKIP_CHECKPOINTS": "true"}
# As the CLI says it of each deletion that it begins.
_DELETES = " deleting ("


@dataclass(kw_only=True)
class _Run:
    """What is known of a run of the CLI.

    Args:
        deletes: whether it has begun to delete something.
        ended_itself: whether it ended, and was not killed.
    """

    deletes: bool = False
    ended_itself: bool = False


def check_settings(stack: Stack, *, until: str = "") -> None:
    """Refuse what a running lab cannot change to, before set-up fetches or builds anything for it.

    A state that is in no directory only the CLI can read: `up` checks that.

    Args:
        stack: whose settings.
        until: the last chapter that is wanted; empty for all.

    Raises:
        ToolchainError: with what the lab cannot change to, and what to do; or a rewind or a destroy is not finished.
    """
    halted.check_state_fits(stack)
    deployment = {"deployment": recorded(state.directory(), stack)}
    chapters.check(deployment, stack, until)
    _check_changes(deployment, stack)


def _check_changes(deployment: Mapping[str, Any], stack: Stack) -> None:
    choices.check(deployment, stack)
    rotations.check(deployment, stack)
    version_changes.check(deployment, stack)
    version_changes.check_joins(deployment, stack)


def up(
    workshop: Workshop,
    stack: Stack,
    *,
    options: Sequence[str] = (),
    until: str = "",
    told: Path | None = None,
    program: ProgramHost | None = None,
) -> int:
    """Bring a lab to what the program says, made if need be. The CLI talks to the user.

    Args:
        options: more for the CLI: a plan that limits what is changed, policy packs.
        until: the last chapter; empty for the whole lab.
        told: the file that the program writes its outputs to, see `told_outputs`.
        program: what runs the program; started here if not given.

    Returns:
        The CLI's exit status.

    Raises:
        ToolchainError: another run is at work on this stack, or the state cannot be used.
    """
    with program_host.started(program) as host, settings_file_kept(stack.settings_file, workshop.state):
        deployment = _open(workshop, stack)
        directory = workshop.state.directory
        first_up.remove_unsaved(directory, stack, deployment)
        chapters.check(deployment, stack, until)
        _check_changes(deployment, stack)
        whose.check_before_up(deployment, stack)
        words = ("up", *_AT_ONCE, *options)
        passphrase = paths.state() / "passphrase" if workshop.state.own_passphrase else None
        if directory is None or not first_up.is_next(directory, stack, deployment, passphrase):
            return _pulumi(workshop, stack, *words, until=until, told=told, program=host)
        variables = {**_ONE_SAVE, **first_up.begin(directory, stack)}
        run, steps = _Run(), frozen.PrintedSteps(stack.addresses)
        try:
            return _pulumi(
                workshop,
                stack,
                *words,
                until=until,
                told=told,
                variables=variables,
                run=run,
                printed_steps=steps,
                program=host,
            )
        finally:
            if run.ended_itself:
                first_up.ended(directory, stack)


def replace(workshop: Workshop, stack: Stack, machines: Sequence[str]) -> int:
    """Recreate machines, and everything that was on them; the rest as `up`.

    Args:
        machines: their names.

    Raises:
        ToolchainError: as `up`; or the state has no such machine.
    """
    if stack.traits.existing_hosts:
        raise ToolchainError(
            f"The machines of the stack {stack.name} are existing hosts: reinstall the host yourself, then run "
            f"`./hardway trust -s {stack.name}` (it shows how to pin the new host key) and "
            f"`./hardway up -s {stack.name}`."
        )
    with program_host.started() as host, settings_file_kept(stack.settings_file, workshop.state):
        deployment = _open(workshop, stack)
        _check_changes(deployment, stack)
        version_changes.check_joins(deployment, stack, recreated=machines)
        whose.check_before_up(deployment, stack)
        urns = [f"--replace={_urn_of_machine(deployment, stack, machine)}" for machine in dict.fromkeys(machines)]
        return _pulumi(workshop, stack, "up", *urns, *_AT_ONCE, program=host)


def preview(
    workshop: Workshop,
    stack: Stack,
    *,
    options: Sequence[str] = (),
    until: str = "",
    program: ProgramHost | None = None,
) -> int:
    """Show what `up` would do. Takes, returns and raises as `up`."""
    halted.check_state_fits(stack)
    with program_host.started(program) as host, settings_file_kept(stack.settings_file, workshop.state):
        clear_stale_locks(workshop.state.directory, stack)
        drop_torn_attributes(workshop.state.directory, stack)
        _repair_state(workshop, stack)
        deployment = _export_or_init(workshop, stack)
        chapters.check(deployment, stack, until)
        _check_changes(deployment, stack)
        if begun := first_up.unsaved(workshop.state.directory, stack, deployment):
            print(f"{first_up.said(stack, begun)} `up` first removes what it created.", flush=True)
        return _pulumi(workshop, stack, "preview", "--diff", *options, until=until, program=host)


def analyze(workshop: Workshop, stack: Stack, pack: Path, *, as_json: bool) -> int:
    """Judge the state of a lab by a policy pack. Runs no program and contacts no host.

    Args:
        pack: the directory of the pack.
        as_json: one JSON object for each event, as the CLI prints them.

    Returns:
        The CLI's exit status: not 0 where a mandatory rule is violated.

    Raises:
        ToolchainError: there is no such lab.
    """
    if not recorded(workshop.state.directory, stack) and _ask(workshop, stack, "stack", "export").returncode != 0:
        raise ToolchainError(f"There is no lab {stack.name}: `hardway up -s {stack.name}` makes it.")
    json_option = ["--json"] if as_json else []
    return _pulumi(workshop, stack, "policy", "analyze", f"--policy-pack={pack}", *json_option, runs_program=False)


def destroy(workshop: Workshop, stack: Stack) -> int:
    """Take a lab away; the stack, empty, stays. Returns and raises as `up`."""
    with settings_file_kept(stack.settings_file, workshop.state):
        deployment = _open(workshop, stack)
        directory = workshop.state.directory
        first_up.remove_unsaved(directory, stack, deployment)
        whose.check_before_destroy(deployment, stack)
        if directory is None or not stack.traits.deletes_again:
            return _pulumi(workshop, stack, "destroy", *_AT_ONCE)
        file = state_file(directory, stack)
        before = file.read_bytes()
        # The state of the second destroy does not say any more what was under way before the first.
        is_incomplete = first_up.is_half_created(deployment) or halted.is_destroying(stack)
        halted.mark_destroying(stack, file)
        run = _Run()
        try:
            if is_incomplete:
                first_up.remove_saved(stack, deployment)
            return _pulumi(workshop, stack, "destroy", *_AT_ONCE, variables=_ONE_SAVE, run=run)
        finally:
            # A CLI that could not begin, as without the passphrase, has saved nothing, either.
            fits = run.ended_itself and (not run.deletes or file.read_bytes() != before)
            halted.mark_destroyed(stack, fits=fits)


def outputs(workshop: Workshop, stack: Stack) -> dict[str, Any]:
    """The stack's outputs, secrets in clear: not to be shown.

    Raises:
        ToolchainError: they cannot be read.
    """
    failure = f"The outputs of the stack {stack.name} cannot be read"
    result: dict[str, Any] = json.loads(
        _answer(workshop, stack, "stack", "output", "--json", "--show-secrets", failure=failure)
    )
    return result


def state_in_clear(workshop: Workshop, stack: Stack) -> dict[str, Any]:
    """The state of a stack as the CLI exports it, secrets in clear: not to be shown.

    Raises:
        ToolchainError: it cannot be read.
    """
    done = _ask(workshop, stack, "stack", "export", "--show-secrets")
    if done.returncode != 0:
        raise ToolchainError(f"The state of the stack {stack.name} cannot be read: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def export_state(workshop: Workshop, stack: Stack) -> str:
    """The state of a stack as the CLI exports it, its secrets encrypted.

    Raises:
        ToolchainError: it cannot be read.
    """
    return _answer(workshop, stack, "stack", "export", failure=f"The state of the stack {stack.name} cannot be read")


def read_state(workshop: Workshop, stack: Stack) -> dict[str, Any]:
    """What `export_state` says, as data. Where the state is a file the CLI, which takes half a second, is not run.

    Raises:
        ToolchainError: it cannot be read.
    """
    if found := recorded(state.directory(), stack):
        return {"deployment": dict(found)}
    exported: dict[str, Any] = json.loads(export_state(workshop, stack))
    return exported


def history(workshop: Workshop, stack: Stack) -> list[dict[str, Any]]:
    """The runs of a stack that the backend has on record, the last one first, each as the CLI describes it.

    Raises:
        ToolchainError: they cannot be read.
    """
    failure = f"The history of the stack {stack.name} cannot be read"
    runs: list[dict[str, Any]] = json.loads(_answer(workshop, stack, "stack", "history", "--json", failure=failure))
    return runs


def import_state(workshop: Workshop, stack: Stack, exported: str) -> None:
    """Make the state of a stack what `export_state` has returned. The CLI takes Pulumi's lock for it.

    Raises:
        ToolchainError: it cannot be written.
    """
    failure = f"The state of the stack {stack.name} cannot be written"
    _answer(workshop, stack, "stack", "import", told=exported, failure=failure)


@contextmanager
def alone(stack: Stack, doing: str) -> Iterator[None]:
    """Refuse to start while another run of the tool chain is at work on the stack.

    Args:
        stack: which stack.
        doing: what this run does, for the other's message.

    Raises:
        ToolchainError: there is another.
    """
    lock = paths.state() / "locks" / stack.name
    try:
        with held_or_refused(lock, what=f"{doing}, process {os.getpid()}, since {datetime.now(UTC):%F %T} UTC"):
            yield
    except HeldError as error:
        raise ToolchainError(
            f"Another run is at work on the stack {stack.name} ({error}). Nothing was changed.\n"
            "Wait for it, or interrupt it with Ctrl-C in its terminal, then run this again."
        ) from None


def at_work_on(stack: Stack) -> str:
    """What a run that is at work on the stack does, in its own words: "./hardway drill"; empty if there is none."""
    return holder(paths.state() / "locks" / stack.name).partition(",")[0]


@contextmanager
def without_pulumi(stack: Stack, doing: str) -> Iterator[None]:
    """Keep every other run away from the stack, plain `pulumi` too: for a command that changes the lab by itself.

    Args:
        stack: which stack.
        doing: what this run does, for the others' messages.

    Raises:
        ToolchainError: another run is at work.
    """
    with alone(stack, doing), pulumi_kept_out(stack, doing):
        yield


@contextmanager
def pulumi_kept_out(stack: Stack, doing: str) -> Iterator[None]:
    """Hold Pulumi's own lock of the stack; to be released before this run starts the CLI, which takes it itself.

    Only a backend in a directory has a lock that can be held. For another the user is told; the machines' own locks
    (live/machine_lock.py) are all that remains.

    Raises:
        ToolchainError: a `pulumi`, or another run that holds the lock, is at work.
    """
    directory = state.directory()
    if directory is None:
        print(
            f"The state of the stack {stack.name} is in no directory: {doing} cannot hold Pulumi's lock there. "
            "Do not run `pulumi` on this stack until it has ended.",
            flush=True,
        )
        yield
        return
    with stack_lock.held(directory, stack, doing):
        yield


def _open(workshop: Workshop, stack: Stack) -> Mapping[str, Any]:
    """Have the stack, free of what a killed run has left behind; return its state as it was found."""
    stack_lock.report_removed(clear_stale_locks(workshop.state.directory, stack))
    for plugin in orphans.end_orphans(paths.checkout()):
        print(f"Ended {plugin.name} (process {plugin.pid}): a killed run had left it running.", flush=True)
    drop_torn_attributes(workshop.state.directory, stack)
    _repair_state(workshop, stack)
    deployment = _export_or_init(workshop, stack)
    # Before a refresh, which would read another lab's resources into the state, and forgets what was being made.
    strays = _STRAYS.get(stack.traits.plugin or "")
    if strays and (gone := strays.remove(deployment, stack)):
        print(f"Removed incomplete resources of an earlier run: {', '.join(gone)}.", flush=True)
    if pending := pending_operations(deployment):
        print(f"A run was killed while {', '.join(pending)}: clearing that from the state.", flush=True)
        status = _pulumi(workshop, stack, "refresh", *_UNASKED, "--clear-pending-creates")
        if status != 0:
            raise ToolchainError(
                f"`pulumi refresh` ended with status {status}; its output above says why. "
                "When that is repaired, run this again."
            )
    if older_labs.needs_repair(deployment):
        deployment = _repair_scripts(workshop, stack)
    return deployment


def _repair_state(workshop: Workshop, stack: Stack) -> None:
    if repaired := repair_torn_state(workshop.state.directory, stack):
        print(
            f"{repaired} had NUL bytes behind its JSON, as a power failure leaves them: they are removed.", flush=True
        )


def _repair_scripts(workshop: Workshop, stack: Stack) -> Mapping[str, Any]:
    """Have scripts in the state that work (see `older_labs`); return the state."""
    deployment: dict[str, Any] = json.loads(export_state(workshop, stack))
    if (better := older_labs.repaired(deployment)) is None:
        return deployment
    print("The state has scripts of an earlier version that fail today: repairing them.", flush=True)
    import_state(workshop, stack, json.dumps(better))
    return better


def _urn_of_machine(deployment: Mapping[str, Any], stack: Stack, machine: str) -> str:
    """The resource that is a machine: it makes the container or the instance when it is made, and nothing else does."""
    for resource in deployment.get("deployment", {}).get("resources", []):
        urn = str(resource["urn"])
        if stack.traits.machine and urn.endswith("{0}::machines-{2}{1}".format(*stack.traits.machine, machine)):
            return urn
    raise ToolchainError(f"The state has no machine {machine}. `./hardway up` makes it.")


def _export_or_init(workshop: Workshop, stack: Stack) -> Mapping[str, Any]:
    # The CLI takes a third of a second for the same, and as long to say that there is no stack.
    if found := recorded(workshop.state.directory, stack):
        return {"deployment": found}
    if not is_absent(workshop.state.directory, stack):
        exported = _ask(workshop, stack, "stack", "export")
        if exported.returncode == 0:
            deployment: dict[str, Any] = json.loads(exported.stdout)
            return deployment
        if "no stack named" not in exported.stderr:
            raise ToolchainError(f"The state of the stack {stack.name} cannot be read: {exported.stderr.strip()}")
    whose.check_backend(stack)
    made = _ask(workshop, stack, "stack", "init", "--no-select")
    # The one command that writes a settings file and cannot be told where: it has the salt alone, as the state has it.
    beside_project = paths.checkout() / stack.settings_file.name
    if beside_project != stack.settings_file:
        beside_project.unlink(missing_ok=True)
    if made.returncode != 0:
        raise ToolchainError(f"The stack {stack.name} cannot be made: {made.stderr.strip()}")
    return {}


def _answer(workshop: Workshop, stack: Stack, *arguments: str, failure: str, told: str | None = None) -> str:
    """What the CLI prints.

    Raises:
        ToolchainError: it fails; `failure` and its reason.
    """
    done = _ask(workshop, stack, *arguments, told=told)
    if done.returncode != 0:
        raise ToolchainError(f"{failure}: {done.stderr.strip()}")
    return done.stdout


def _ask(
    workshop: Workshop, stack: Stack, *arguments: str, told: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the CLI for what it prints, which is not shown; `told` is its standard input."""
    words = (*arguments, "--stack", stack.name, "--non-interactive")
    return ask(workshop.pulumi, *words, stdin=told, cwd=paths.checkout(), env=_environment(workshop))


def _environment(workshop: Workshop) -> dict[str, str]:
    return os.environ | workshop.environment | pulumi_home.without_log(workshop.state)


def _pulumi(
    workshop: Workshop,
    stack: Stack,
    *arguments: str,
    runs_program: bool = True,
    until: str = "",
    told: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
    run: _Run | None = None,
    printed_steps: frozen.PrintedSteps | None = None,
    program: ProgramHost | None = None,
) -> int:
    """Run the CLI before the user's eyes, until it has ended in order.

    Args:
        runs_program: whether the command reads the stack's settings file, and needs providers.
        until: the last chapter that the program creates; empty for all.
        told: the file that the program writes its outputs to.
        variables: more of the environment.
        run: gets what is known of it.
        printed_steps: gets each line, where the state does not say meanwhile which steps are under way.
        program: what runs the program, where the command runs it.
    """
    directory = workshop.state.directory
    # The state of another backend cannot be read meanwhile.
    recorded_steps = (lambda: frozen.steps_under_way(recorded(directory, stack))) if directory else None
    steps = printed_steps.under_way if printed_steps else recorded_steps
    settings = ["--config-file", str(stack.settings_file)] if runs_program else []
    in_terminal = sys.stdin.isatty()
    environment = _environment(workshop) | {VARIABLE: until, told_outputs.VARIABLE: str(told or ""), **variables}
    if program:
        settings.append(f"--client={program.serve(environment)}")
    with ExitStack() as servers:
        ports = servers.enter_context(standin_servers.started(environment)) if runs_program else {}
        process = subprocess.Popen(
            [workshop.pulumi, *arguments, "--stack", stack.name, *settings],
            cwd=paths.checkout(),
            env=environment | ports,
            stdin=None if in_terminal else subprocess.DEVNULL,
            # A terminal's Ctrl-C reaches every process of its foreground group, so the CLI has it already.
            # Elsewhere the CLI gets a group of its own and is told here. A second one would make it break off.
            process_group=None if in_terminal else 0,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        passphrase_is_wrong = False
        with (
            _interrupts_reach(process, in_terminal=in_terminal),
            frozen.watched(steps, stack, lambda: _interrupt(process)) as beyond,
        ):
            assert process.stdout is not None
            for line in readable(process.stdout):
                passphrase_is_wrong |= _WRONG_PASSPHRASE in line
                if run and _DELETES in line:
                    run.deletes = True
                if printed_steps:
                    printed_steps.read(line)
                print(line, end="", flush=True)
            status = process.wait()
    if run:
        run.ended_itself = status >= 0
    if status != 0 and passphrase_is_wrong:
        raise ToolchainError(_advice_on_passphrase(workshop, stack))
    if beyond:
        raise ToolchainError(
            f"{beyond[0]} Pulumi was interrupted.\n"
            "When the machine works again, run the same command: it continues. `./hardway replace` "
            "recreates the machine."
        )
    return status


def _interrupt(process: subprocess.Popen[str]) -> None:
    """End a run of the CLI, in order if it can be.

    By the first interrupt it waits for what is under way, which the official command plugin does not cancel. By the
    second it leaves that in the state, and the next run clears it.
    """
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        process.send_signal(number)
        deadline = time.monotonic() + _INTERRUPT_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is not None:
            return


def _advice_on_passphrase(workshop: Workshop, stack: Stack) -> str:
    own = workshop.environment.get("PULUMI_CONFIG_PASSPHRASE_FILE")
    source = own if workshop.state.own_passphrase else "PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE"
    return (
        f"The state of the stack {stack.name} is encrypted with another passphrase than that in {source}.\n"
        "Nothing was changed. `pulumi stack change-secrets-provider passphrase` gives one stack another passphrase:\n"
        "write the one that was chosen then into a file that only you can read, and name that file:\n"
        f"  PULUMI_CONFIG_PASSPHRASE_FILE=/path/of/the/file ./hardway up -s {stack.name}\n"
        "The other stacks of this checkout keep theirs."
    )


@contextmanager
def _interrupts_reach(process: subprocess.Popen[str], *, in_terminal: bool) -> Iterator[None]:
    def pass_on(number: int, _: FrameType | None) -> None:
        if not (in_terminal and number == signal.SIGINT):
            process.send_signal(signal.SIGINT)

    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
