"""`./hardway` for the commands of the pages: a process that has imported everything, and forks for each command.

A start of Python with the imports takes longer than most of these commands, and there are about a hundred. The script
`hardway` itself and the start are for other tests (tests/toolchain/test_bootstrap.py).
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.commands import CHECKOUT
from lab.polling import eventually

_PROGRAM = str(Path(__file__).resolve())
CLIENT = (sys.executable, "-I", "-S", str(Path(__file__).with_name("documents_client.py")))
_MODULES = ("cli.main", "live.certs.run", "live.drift.run", "live.logs", "live.status", "toolchain.access")


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Path]:
    """The socket of a server, which ends with the context."""
    path = directory / "hardway.socket"
    environment = os.environ | {"PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}"}
    process = subprocess.Popen([sys.executable, _PROGRAM, str(path)], cwd=CHECKOUT, env=environment)
    try:
        eventually("the server of ./hardway", lambda: path.exists() or process.poll() is not None, seconds=60)
        assert process.poll() is None, "the server of ./hardway has ended; its report stands above"
        yield path
    finally:
        process.terminate()
        process.wait(timeout=10)


def _serve(path: Path) -> None:
    import importlib

    for module in _MODULES:
        importlib.import_module(module)
    listening = socket.socket(socket.AF_UNIX)
    unfinished = path.with_suffix(".new")
    listening.bind(str(unfinished))
    listening.listen()
    # It appears when it answers.
    unfinished.rename(path)
    while True:
        connection, _ = listening.accept()
        words, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        child = os.fork()
        if child == 0:
            listening.close()
            _run(json.loads(words), streams)
        for stream in streams:
            os.close(stream)
        threading.Thread(target=_answer, args=(connection, child), daemon=True).start()


def _answer(connection: socket.socket, child: int) -> None:
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
    connection.close()


def _run(request: dict[str, Any], streams: list[int]) -> None:
    """In the child: be the command."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        from cli.main import main

        code = main(request["words"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
