"""What tests of day-2 operations start from."""

from pathlib import Path

import pytest


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of Pulumi's state of the test's own: commands that change a lab write a lock there."""
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{tmp_path}/backend")
    return tmp_path / "backend"
