"""What `program_host` starts: it serves Pulumi's protocol of a language runtime, and runs the lab's program.

While it loads what the program needs, it reads its environment from stdin: one line of JSON. Then it serves. It ends
when stdin does.
"""

import ast
import gc
import importlib
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from toolchain.from_source.standins import protocol

# In the project's directory, the current one.
_PROGRAM = Path("__main__.py")


def main() -> None:
    """Serve until stdin ends."""
    # It may print in a terminal that stops what prints from the background.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    # What is loaded stays until the end.
    gc.disable()
    protocol.alone()
    from pulumi.runtime.proto import language_pb2_grpc

    from toolchain.from_source.standins import plugin
    from toolchain.from_source.standins.language import LanguageHost

    loading = threading.Thread(target=_load, daemon=True)
    loading.start()
    os.environ.update(json.loads(_line()))
    host = LanguageHost()

    def run_program() -> None:
        # The port has been told. What the program prints is for the user.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        loading.join()
        gc.enable()
        host.run_program()

    plugin.serve(lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server), work=run_program)


def _load() -> None:
    """Import Pulumi's SDK, and what the program imports. If that fails it fails again in the program, and is shown."""
    with suppress(Exception):
        protocol.whole()
        for node in ast.parse(_PROGRAM.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                importlib.import_module(node.module)


def _line() -> str:
    """Byte by byte: `plugin.serve` waits for the end of the file at the descriptor and not at a buffer."""
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := os.read(sys.stdin.fileno(), 1)):
            os._exit(0)
        line += byte
    return line.decode()
