"""What the engine downloads when the language host names more providers than the program uses.

The official host names the provider of every SDK in the virtual environment, the other substrates' among them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.artifact_server import Artifacts, serving
from engine.project import Project
from toolchain import paths, prepare
from toolchain.state import State

_CHECKOUT = Path(__file__).parents[2]
# The stand-in, but it names the provider of Google Cloud, whose SDK is in the virtual environment.
_HOST = f"""#!/bin/sh
exec "$HARDWAY_PYTHON" -c '
import sys
sys.path[0] = "{_CHECKOUT}"
from pulumi.runtime.proto import language_pb2, plugin_pb2
from toolchain.from_source.standins import language
named = plugin_pb2.PackageDependency(name="gcp", kind="resource", version="10.2.0")
answer = language_pb2.GetRequiredPackagesResponse(packages=[named])
language.LanguageHost.GetRequiredPackages = lambda *_: answer
language.main()' "$@"
"""


@pytest.fixture
def upstream() -> Iterator[Artifacts]:
    """All that Pulumi's releases would be; it has none."""
    with serving("127.0.0.1") as server:
        yield server


@pytest.fixture
def project(project: Project, upstream: Artifacts, tmp_path: Path) -> Project:
    """A project whose engine may install plugins, from this server only."""
    host = tmp_path / "host" / "pulumi-language-python"
    host.parent.mkdir()
    host.write_text(_HOST)
    host.chmod(0o755)
    project.environment["PATH"] = f"{host.parent}:{project.environment['PATH']}"
    project.environment["PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES"] = f".*={upstream.url}"
    del project.environment["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"]
    project.program("import pulumi_command\npulumi_command.local.Command('it', create='true')\n")
    return project


def test_by_itself_the_engine_asks_for_every_provider(project: Project, upstream: Artifacts) -> None:
    """So that the test below can fail."""
    project.up()
    assert any("gcp" in path for path in upstream.asked)


@pytest.mark.parametrize("command", ["preview", "up"])
def test_in_the_environment_of_make_env_it_asks_for_none(
    project: Project, upstream: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(paths, "state", lambda: tmp_path / ".state")
    # As where all plugins are official: no stand-in is linked.
    (tmp_path / ".state" / "plugins").mkdir(parents=True)
    found = State(environment={}, directory=None, own_passphrase=False)
    variables = prepare._environment(Path("/usr/bin/pulumi"), found)
    project.environment |= {name: value for name, value in variables.items() if name.startswith("PULUMI_")}

    confirmed = () if command == "preview" else ("--yes", "--skip-preview")
    project.pulumi(command, *confirmed, ok=True)

    assert upstream.asked == []
