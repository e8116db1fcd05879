"""The `command` stand-in: lives of local and remote commands, connections, and what is left when the engine dies."""

import asyncio
import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pulumi_command
import pytest

from engine.project import Project
from engine.ssh_host import ENDS_AT_ONCE, SshHost, free_port
from toolchain.from_source.standins import local_process, provider, ssh
from toolchain.from_source.standins.transcript import Transcript

_SECONDS = 60.0
_SECRET = "a secret for stdin only"


def _local(**settings: Any) -> str:
    return f"import pulumi\nfrom pulumi_command import local\ncommand = local.Command('it', **{settings!r})\n"


def _remote(connection: dict[str, Any], secret: str = "", **settings: Any) -> str:
    """A program with one remote command; the secret goes to its stdin."""
    stdin = f", stdin=pulumi.Output.secret({secret!r})" if secret else ""
    return (
        "import pulumi\nfrom pulumi_command import remote\n"
        f"command = remote.Command('it', connection={connection!r}, **{settings!r}{stdin})\n"
        "pulumi.export('stdout', command.stdout)\npulumi.export('stderr', command.stderr)\n"
    )


def test_a_local_command_lives_as_the_official_one(project: Project) -> None:
    log = project.directory / "log"
    common = {"dir": str(project.directory), "delete": 'echo "delete $WORD after $PULUMI_COMMAND_STDOUT" >> log'}
    create = 'cat; echo create $WORD; echo "create $WORD" >> log; printf "to stderr\\n\\n" >&2'
    project.program(_local(create=create, environment={"WORD": "one"}, stdin="from stdin\n", **common))
    project.preview()
    assert not log.exists()
    project.up()
    resource = project.resources()["command:local:Command::it"]
    assert resource["outputs"]["stdout"] == "from stdin\ncreate one"
    assert resource["outputs"]["stderr"] == "to stderr\n"
    assert "unchanged" in project.up().output

    update = 'echo "update $WORD after $PULUMI_COMMAND_STDOUT" >> log'
    project.program(_local(create=create, update=update, environment={"WORD": "two"}, **common))
    assert "~ 1 updated" in project.up().output
    project.program(_local(create=create, environment={"WORD": "three"}, **common))
    assert "~ 1 updated" in project.up().output
    # Whatever is changed, it runs again.
    project.program(_local(create=create, environment={"WORD": "three"}, logging="none", **common))
    assert "~ 1 updated" in project.up().output
    assert project.resources()["command:local:Command::it"]["id"] == resource["id"]

    triggered = _local(create=create, environment={"WORD": "four"}, triggers=[1], **common)
    project.program(triggered)
    assert "+-1 replaced" in project.up().output
    project.program(triggered.replace("'triggers': [1]", "'triggers': [2]").replace("four", "five"))
    assert "+-1 replaced" in project.up().output
    project.destroy()

    assert log.read_text().splitlines() == [
        "create one",
        *"update two after from stdin\ncreate one".splitlines(),
        "create three",
        "create three",
        "create four",
        "delete three after create three",
        "create five",
        "delete four after create four",
        "delete five after create five",
    ]


def test_an_interpreter_and_its_failures(project: Project) -> None:
    project.program(_local(create="print(6 * 7)", interpreter=["python3", "-c"]))
    project.up()
    assert project.resources()["command:local:Command::it"]["outputs"]["stdout"] == "42"

    project.program(_local(create="true", dir="/no/such/directory"))
    assert "No such file or directory: /no/such/directory" in project.up(ok=False).output
    project.program(_local(create="kill -KILL $$"))
    assert 'signal: killed: running "kill -KILL $$"' in project.up(ok=False).output


def test_a_failed_create_is_not_kept_and_a_failed_update_keeps_the_state(project: Project) -> None:
    failing = 'echo said; echo "and said" >&2; exit 3'
    project.program(_local(create=failing, delete="touch deleted", dir=str(project.directory)))
    output = project.up(ok=False).output
    lines = [line.strip() for line in output.splitlines()]
    told = lines.index(f"error: exit status 3: running {json.dumps(failing)}:")
    assert sorted(lines[told + 1 : told + 3]) == ["and said", "said"]
    assert "command:local:Command::it" not in project.resources()

    project.program(_local(create="echo fine", delete="touch deleted", dir=str(project.directory)))
    project.up()
    project.program(_local(create=failing, delete="false", dir=str(project.directory)))
    project.up(ok=False)
    kept = project.resources()["command:local:Command::it"]
    assert kept["outputs"]["stdout"] == "fine" and kept["outputs"]["create"] == "echo fine"

    project.destroy()
    assert (project.directory / "deleted").exists()


def test_lines_are_shown_while_a_command_runs_unless_logging_is_off(project: Project) -> None:
    # What makes the CLI take --event-log.
    project.environment["PULUMI_DEBUG_COMMANDS"] = "true"

    def shown(logging: str) -> str:
        settings = {"create": "echo out-line; echo err-line >&2; printf last-line", "triggers": [logging]}
        project.program(_local(**settings, logging=logging))
        events = project.directory / "events"
        project.pulumi("up", "--yes", "--skip-preview", "--event-log", str(events), ok=True)
        messages = [json.loads(line).get("diagnosticEvent", {}).get("message", "") for line in events.open()]
        events.unlink()
        return "".join(messages)

    both = shown("stdoutAndStderr")
    assert "out-line" in both and "err-line" in both and "last-line" in both
    assert "out-line" not in (only := shown("stderr")) and "err-line" in only
    assert "-line" not in shown("none")


def test_what_the_stand_in_lacks_is_refused(project: Project) -> None:
    project.program(_local(create="true", asset_paths=["*"]))

    assert "not supported by this stand-in" in project.preview(ok=False).output


def test_an_import_is_refused(project: Project) -> None:
    """It left a protected resource without a command, and the next `up` failed."""
    project.program("")
    refused = project.pulumi("import", "command:local:Command", "it", "an-id", "--yes", ok=False)
    assert "import is not supported by this stand-in" in refused.output
    assert not any("Command" in urn for urn in project.resources())


def test_a_remote_command_lives_as_the_official_one(project: Project, host: SshHost) -> None:
    common: dict[str, Any] = {"add_previous_output_in_env": False, "logging": "none"}
    create = "echo made; wc -c; echo err >&2"
    project.program(_remote(host.connection, _SECRET, create=create, delete="echo gone", **common))
    preview = project.preview()
    assert host.connections == 0 and "stdout: [unknown]" in preview.output
    up = project.up()
    assert project.outputs() == {"stdout": f"made\n{len(_SECRET)}", "stderr": "err"}
    state = project.state.read_text()
    assert _SECRET not in state and "PRIVATE KEY" not in state
    assert _SECRET not in up.output + preview.output
    resource = project.resources()["command:remote:Command::it"]
    assert (
        set(resource["outputs"])
        == {*("addPreviousOutputInEnv", "connection", "create", "delete", "logging", "stdin", "stdout", "stderr")}
        <= _properties(pulumi_command.remote.Command)
    )
    connection = json.loads(resource["outputs"]["connection"]["plaintext"])
    assert (connection["perDialTimeout"], connection["port"]) == (15, host.port)

    project.program(_remote(host.connection, _SECRET, create="exit 4", delete="echo never", **common))
    failed = project.up(ok=False).output
    assert 'Process exited with status 4: running "exit 4":' in failed and _SECRET not in failed
    assert project.outputs()["stderr"] == "err"
    project.destroy()

    assert host.commands == [create, "exit 4", "echo gone"]


def test_a_remote_command_may_end_before_its_input_is_sent(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step's deletion that removed nothing was an error now and then: "Channel not open for sending"."""
    start = ssh._Channel.start

    async def started_late(channel: ssh._Channel, session: ssh._Session, text: str) -> None:
        await start(channel, session, text)
        async with asyncio.timeout(30):
            while channel._send_state == "open":
                await asyncio.sleep(0.01)

    monkeypatch.setattr(ssh._Channel, "start", started_late)
    inputs = _inputs(host) | {"stdin": _SECRET}
    log = provider.Log(Mock(), Mock(), "it")
    assert asyncio.run(ssh.run(ENDS_AT_ONCE, inputs, {}, Transcript(print, "none"), log)) is None
    assert host.commands == [ENDS_AT_ONCE]


def test_a_preview_bears_that_nothing_of_a_connection_is_known(project: Project) -> None:
    project.program(
        "import pulumi\nimport pulumi_tls as tls\nfrom pulumi_command import local, remote\n"
        "key = tls.PrivateKey('key', algorithm='ED25519')\n"
        "address = local.Command('address', create='echo 127.0.0.1')\n"
        "jump = {'host': address.stdout, 'private_key': key.private_key_openssh}\n"
        "command = remote.Command('it', connection=jump | {'proxy': jump}, create=address.stdout, stdin=key.id)\n"
        "remote.Command('other', connection=address.stdout.apply(lambda host: {'host': host}), create='true')\n"
    )

    assert "+ 5 to create" in project.preview().output


def test_triggers_create_the_new_before_the_old_is_deleted(project: Project, host: SshHost) -> None:
    program = _remote(host.connection, create="echo 1", delete="echo -1", triggers=["a"])
    project.program(program)
    project.up()
    project.program(program.replace("'a'", "'b'").replace("echo 1", "echo 2").replace("echo -1", "echo -2"))
    project.up()
    assert host.commands == ["echo 1", "echo 2", "echo -1"]

    first = "opts=pulumi.ResourceOptions(delete_before_replace=True))\npulumi.export('stdout'"
    ordered = project.directory / "__main__.py"
    project.program(ordered.read_text().replace("'b'", "'c'").replace(")\npulumi.export('stdout'", f", {first}"))
    project.up()
    assert host.commands[3:] == ["echo -2", "echo 2"]


def test_earlier_output_reaches_the_next_command_and_variables_reach_all(project: Project, host: SshHost) -> None:
    show = "echo $WORD $PULUMI_COMMAND_STDOUT"
    project.program(_remote(host.connection, create=show, environment={"WORD": "a"}))
    project.up()
    assert project.outputs()["stdout"] == "a"
    project.program(_remote(host.connection, create=show, environment={"WORD": "b"}))
    project.up()
    assert project.outputs()["stdout"] == "b a"


def test_another_host_key_is_refused(project: Project, host: SshHost) -> None:
    with SshHost() as other:
        project.program(_remote(host.connection | {"host_key": other.connection["host_key"]}, create="echo never"))
        output = project.up(ok=False).output

    assert "Host key is not trusted" in output and f"tester@127.0.0.1:{host.port}" in output
    assert host.connections == 0 and host.commands == []


def test_a_password_and_a_wrong_one(project: Project, host: SshHost) -> None:
    connection = {name: value for name, value in host.connection.items() if name != "private_key"}
    project.program(_remote(connection | {"password": "wrong horse"}, create="echo never"))
    output = project.up(ok=False).output
    assert "Permission denied" in output and "wrong horse" not in output

    project.program(_remote(connection | {"password": host.password}, create="echo in"))
    project.up()
    assert project.outputs()["stdout"] == "in" and host.password not in project.state.read_text()


def test_a_jump_host_carries_the_connection(project: Project, host: SshHost) -> None:
    with SshHost() as jump:
        project.program(_remote(host.connection | {"proxy": jump.connection}, create="echo through"))
        project.up()

        assert project.outputs()["stdout"] == "through"
        assert (host.connections, jump.connections, jump.commands) == (1, 1, [])
        assert "PRIVATE KEY" not in project.state.read_text()


def test_a_machine_that_boots_late_is_reached(project: Project) -> None:
    late = SshHost(free_port())
    project.program(_remote(late.connection | {"dial_error_limit": -1}, create="echo awake"))
    dialled = threading.Event()
    threading.Thread(target=_start_after_a_dial, args=(late, dialled), daemon=True).start()

    project.up()

    assert dialled.is_set() and project.outputs()["stdout"] == "awake"
    late.__exit__(None, None, None)


def _start_after_a_dial(host: SshHost, dialled: threading.Event) -> None:
    """Refuse one connection, so that it is certain that a client tried, and only then be there."""
    with socket.create_server(("127.0.0.1", host.port)) as closed:
        closed.accept()[0].close()
        dialled.set()
    host.__enter__()


def test_a_machine_that_never_answers_is_given_up(project: Project) -> None:
    port = free_port()
    project.program(_remote({"host": "127.0.0.1", "port": port, "dial_error_limit": 2}, create="echo never"))

    output = project.up(ok=False).output

    assert "failed attempts: cannot connect to root@127.0.0.1" in output


def test_commands_run_at_once(project: Project, host: SshHost) -> None:
    # Each waits until all have started: a queue would never end.
    everybody = "touch $N; until [ $(ls | wc -l) -eq 32 ]; do sleep 0.05; done"
    meeting = project.directory / "meeting"
    meeting.mkdir()
    project.program(
        "from pulumi_command import local, remote\n"
        "for n in range(16):\n"
        f"    text = f'cd {meeting}; N={{n}}; ' + {everybody!r}\n"
        f"    remote.Command(f'remote-{{n}}', connection={host.connection!r}, create=text)\n"
        "    local.Command(f'local-{n}', create=text.replace('N=', 'N=local-'))\n"
    )

    project.up()


def _inputs(host: SshHost) -> dict[str, Any]:
    names = {"private_key": "privateKey", "host_key": "hostKey", "dial_error_limit": "dialErrorLimit"}
    return {"connection": {names.get(name, name): value for name, value in host.connection.items()}}


def test_commands_of_a_machine_share_connections(host: SshHost) -> None:
    inputs, log = _inputs(host), provider.Log(Mock(), Mock(), "it")

    async def many(number: int) -> list[str | None]:
        said = (ssh.run(f"exit {each}", inputs, {}, Transcript(print, "none"), log) for each in range(number))
        return await asyncio.gather(*said)

    async def twice() -> None:
        failures = await many(20)
        assert failures[0] is None and failures[19] == "Process exited with status 19"
        connections = host.connections
        # sshd permits ten sessions on each.
        assert 2 <= connections <= 3
        await many(8)
        assert host.connections == connections

    asyncio.run(twice())


def test_a_machine_that_was_restarted_is_dialled_again(host: SshHost) -> None:
    inputs, log = _inputs(host), provider.Log(Mock(), Mock(), "it")

    async def before_and_after() -> None:
        assert await ssh.run("true", inputs, {}, Transcript(print, "none"), log) is None
        # No message says that it ended: it is seen when the next command is sent.
        (machine,) = (each for (loop, _), each in ssh._machines.items() if loop is asyncio.get_running_loop())
        transport = machine.connections[0].connection.get_extra_info("socket")
        transport.shutdown(socket.SHUT_WR)
        assert await ssh.run("exit 3", inputs, {}, Transcript(print, "none"), log) == ("Process exited with status 3")

    asyncio.run(before_and_after())
    assert (host.commands, host.connections) == (["true", "exit 3"], 2)


def test_a_killed_engine_leaves_no_process(project: Project) -> None:
    project.program(_local(create="echo $$ > started; sleep 600 & wait", dir=str(project.directory)))
    engine = project.start("up", "--yes", "--skip-preview")
    _wait_for(lambda: (project.directory / "started").exists())
    assert len(project.processes()) >= 4

    engine.send_signal(signal.SIGKILL)
    engine.wait()

    _wait_for(lambda: not project.processes())


def test_a_command_that_is_cancelled_while_it_starts_leaves_no_process(tmp_path: Path) -> None:
    """asyncio ends a process that it is still starting, but not what that process has started meanwhile."""
    started = tmp_path / "started"

    async def cancelled() -> None:
        text = f"sleep 90 & echo $! >{started}.new; mv {started}.new {started}; wait"
        command = asyncio.ensure_future(local_process.run(text, {}, {}, Transcript(print, "none")))
        # The shell runs, but its streams are not connected yet; the event loop stands still until `sleep` has started.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        _wait_for(started.exists)
        command.cancel()
        await asyncio.wait([command], timeout=30)
        assert command.cancelled()

    asyncio.run(cancelled())

    left = Path("/proc", started.read_text().strip(), "stat")
    _wait_for(lambda: not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z")


def test_a_cancelled_engine_ends_its_commands(project: Project, host: SshHost) -> None:
    started = [project.directory / name for name in ("local", "remote")]
    project.program(
        _local(create=f"touch {started[0]}; sleep 600 & wait")
        + _remote(host.connection, create=f"touch {started[1]}; sleep 600").replace("'it'", "'other'")
    )
    engine = project.start("up", "--yes", "--skip-preview")
    _wait_for(lambda: all(path.exists() for path in started))

    engine.send_signal(signal.SIGINT)

    assert engine.wait(_SECONDS) != 0
    _wait_for(lambda: not project.processes() and not host.running)
    assert not any(name.startswith("command:") for name in project.resources())


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.1)


def _properties(resource: type) -> set[str]:
    """The names that an SDK's class gives to its properties on the wire."""
    found = (
        getattr(member.fget, "_pulumi_name", None) for member in vars(resource).values() if hasattr(member, "fget")
    )
    return {name for name in found if name}
