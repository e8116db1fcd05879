"""Running a command on this machine for `command:local:Command`."""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress

from toolchain.from_source.standins.properties import Properties
from toolchain.from_source.standins.transcript import Transcript

_SHELL = ["/bin/sh", "-c"]
_CHUNK = 65536
# A command that was cancelled may tidy up, but the engine kills the plugin after five seconds.
_GRACE_SECONDS = 1.0


async def run(text: str, inputs: Properties, environment: dict[str, str], transcript: Transcript) -> str | None:
    """Run a command to its end; when cancelled, end its whole process group.

    Args:
        text: the command, as the interpreter's last argument.
        inputs: of the resource: `interpreter`, `dir`, `environment` and `stdin` count.
        environment: variables besides the plugin's own and the resource's.
        transcript: takes what it says.

    Returns:
        How it failed, in the official plugin's words; nothing if it did not.
    """
    stdin = inputs.get("stdin") or None
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(inputs.get("interpreter") or _SHELL),
            text,
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            cwd=inputs.get("dir"),
            env=os.environ | inputs.get("environment", {}) | environment,
            start_new_session=True,
        )
    )
    try:
        # When cancelled itself, it would end the first process of the group only.
        process = await asyncio.shield(starting)
    except OSError as error:
        return f"{error.strerror}: {error.filename}"
    except asyncio.CancelledError:
        with suppress(OSError):
            await _end(await starting)
        raise
    try:
        await asyncio.gather(
            _feed(process, stdin), _listen(process, "stdout", transcript), _listen(process, "stderr", transcript)
        )
        code = await process.wait()
    except asyncio.CancelledError:
        await _end(process)
        raise
    if code < 0:
        # As Go names it.
        return f"signal: {(signal.strsignal(-code) or str(-code)).lower()}"
    return f"exit status {code}" if code else None


async def _feed(process: Process, text: str | None) -> None:
    if process.stdin and text:
        # A command need not read what it is given.
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(text.encode())
            await process.stdin.drain()
        process.stdin.close()


async def _listen(process: Process, stream: str, transcript: Transcript) -> None:
    reader = process.stdout if stream == "stdout" else process.stderr
    while reader and (data := await reader.read(_CHUNK)):
        transcript.write(stream, data)


async def _end(process: Process) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE_SECONDS)
        # The leader may have gone before the others of its group.
        os.killpg(process.pid, signal.SIGKILL)
