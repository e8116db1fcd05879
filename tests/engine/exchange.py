"""One exchange with a plugin: a request whose places are filled in, and its answer with the places taken out again."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import asyncssh

from engine.plugin_process import Plugin
from engine.ssh_host import SshHost


class Places:
    """A plugin at work, a directory, and a host with SSH.

    Args:
        directory: an empty one.
        executable: the plugin's command.
    """

    def __init__(self, directory: Path, executable: Sequence[str]) -> None:
        self.directory = directory
        environment = {"HARDWAY_PYTHON": sys.executable, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.plugin = Plugin(executable, directory, environment)
        self._host = SshHost()

    def __enter__(self) -> "Places":
        self._host.__enter__()
        self.plugin.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.plugin.__exit__(kind, error, trace)
        self._host.__exit__(kind, error, trace)

    def ask(self, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request as it is."""
        return self.plugin.ask(method, request)

    @property
    def names(self) -> dict[str, str]:
        """What stands in recordings for what is different each time; as it is written in JSON."""
        reached = self._host.connection
        other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
        return {
            '"@PORT@"': str(reached["port"]),
            "@USER_KEY@": json.dumps(reached["private_key"])[1:-1],
            "@HOST_KEY@": json.dumps(reached["host_key"])[1:-1],
            "@OTHER_KEY@": json.dumps(other)[1:-1],
            "@ENGINE@": self.plugin.engine.address,
            "@DIRECTORY@": str(self.directory),
        }


def asked(places: Places, method: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send a recorded request, and give what came of it as a recording has it."""
    given = dict(request)
    if "program text" in given:
        (places.directory / "__main__.py").write_text(str(given.pop("program text")))
    text, names = json.dumps(given), places.names
    for name, value in names.items():
        text = text.replace(name, value)
    found = json.dumps(places.ask(method, json.loads(text)), ensure_ascii=True)
    for name, value in names.items():
        found = found.replace(f"{value}.0" if name == '"@PORT@"' else value, name)
    result: dict[str, Any] = json.loads(found)
    return result
