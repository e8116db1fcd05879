"""A project with a small program, for tests with the real engine."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain import paths, state
from toolchain.prepare import Workshop

WAIT_SECONDS = 120.0


def begin(directory: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a directory the checkout: a project with this program and a state of its own."""
    for name in ("PULUMI_BACKEND_URL", "PULUMI_ACCESS_TOKEN", "PULUMI_CONFIG_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(paths, "checkout", lambda: directory)
    (directory / "Pulumi.yaml").write_text("name: toy\nruntime: python\n")
    (directory / "__main__.py").write_text(program)
    set_create(directory, "true")


def set_create(directory: Path, script: str) -> None:
    """Set the script that the stack `dev` has as `toy:create`. Nothing is looked for on the host: its lab is on gcp."""
    (directory / "Pulumi.dev.yaml").write_text(
        f"config:\n  toy:create: {json.dumps(script)}\n  toy:lab: {{substrate: gcp}}\n"
    )


def workshop(**variables: str) -> Workshop:
    """What set-up has made, with further variables."""
    found, pulumi = state.ensure(), shutil.which("pulumi")
    assert pulumi, "no pulumi on PATH: `make test` puts it there"
    environment = {**found.environment, "PULUMI_SKIP_UPDATE_CHECK": "1", **variables}
    return Workshop(pulumi=Path(pulumi), state=found, environment=environment)


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until something is the case.

    Raises:
        AssertionError: it is not; `what` says what is wrong then.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
