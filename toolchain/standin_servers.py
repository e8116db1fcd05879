"""Stand-in providers that run before the engine asks for them, in the runs of `./hardway`.

The engine starts the plugins one after the other when the program's first resources need them, and waits for each. For
a stand-in, a Python program, that is a quarter of a second or more. Pulumi connects to a provider that runs already if
the variable PULUMI_DEBUG_PROVIDERS has its port; so the stand-ins start beside the CLI. The official providers start
sooner, and are left to the engine.
"""

import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from toolchain import paths, plugins

_PREFIX = "pulumi-resource-"
# They first end what they have started: from_source/standins/command.py.
_END_SECONDS = 5.0


@contextmanager
def started(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Run the stand-ins in use, until the `with` block ends.

    Args:
        environment: all their variables.

    Returns:
        Variables for the CLI.
    """
    directory = plugins.on_path()
    links = sorted(directory.glob(f"{_PREFIX}*")) if directory.is_dir() else []
    with ExitStack() as running:
        ports = {link.name.removeprefix(_PREFIX): running.enter_context(_one(link, environment)) for link in links}
        yield {"PULUMI_DEBUG_PROVIDERS": ",".join(f"{name}:{port}" for name, port in ports.items())} if ports else {}


@contextmanager
def _one(executable: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Run one of them; its port."""
    with socket.socket() as reserved:
        # Nobody else gets this port while it is bound here. The plugin binds it too and listens; this socket does not.
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(("127.0.0.1", 0))
        port = int(reserved.getsockname()[1])
        process = subprocess.Popen(
            [executable, f"--port={port}"],
            cwd=paths.checkout(),
            env=environment,
            # It ends when this is closed, also by the end of this process.
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            # Ctrl-C in the terminal is for the CLI: the engine cancels what is under way.
            process_group=0,
        )
        try:
            yield port
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
