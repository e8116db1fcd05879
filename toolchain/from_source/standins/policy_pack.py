"""Runs a policy pack in the virtual environment that its PulumiPolicy.yaml names, as the official language host does.

Source: `RunPlugin` of `sdk/python/cmd/pulumi-language-python` in Pulumi 3.259.0. The official one also hands the
stack's settings to the pack in its environment; the packs here read none.
"""

import contextlib
import queue
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pulumi.runtime.proto import language_pb2


def run(request: language_pb2.RunPluginRequest, context: Any) -> Iterator[language_pb2.RunPluginResponse]:
    """Run the pack to its end, or until the engine has no more questions.

    Args:
        request: which pack, with the arguments and the environment for it.
        context: of the call.

    Yields:
        Lines of its output as they come, and its exit code at the end.
    """
    directory = Path(request.info.program_directory)
    virtualenv = str(dict(request.info.options).get("virtualenv", ""))
    python = directory / virtualenv / "bin" / "python" if virtualenv else Path("python3")
    process = subprocess.Popen(
        [python, "-u", "-m", "pulumi.policy", *request.args, directory],
        cwd=directory,
        env=dict(each.split("=", 1) for each in request.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    context.add_callback(lambda: _end(process))
    lines: queue.SimpleQueue[language_pb2.RunPluginResponse | None] = queue.SimpleQueue()
    for stream, is_output in ((process.stdout, True), (process.stderr, False)):
        threading.Thread(target=_forward, args=(stream, is_output, lines), daemon=True).start()
    for _ in range(2):
        yield from iter(lines.get, None)
    yield language_pb2.RunPluginResponse(exitcode=process.wait())


def _forward(stream: IO[bytes], is_output: bool, lines: Any) -> None:
    answer = language_pb2.RunPluginResponse
    for line in stream:
        lines.put(answer(stdout=line) if is_output else answer(stderr=line))
    lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
