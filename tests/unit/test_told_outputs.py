"""The outputs that the program tells the command line: in full, once, and for the user's eyes only."""

import json
from pathlib import Path

import pytest

from config import told_outputs

OUTPUTS = {"endpoint": "https://10.0.0.1:6443", "kubeconfig": "secret", "machines": [{"name": "worker-0"}]}


def test_what_is_told_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "outputs.json"
    monkeypatch.setenv(told_outputs.VARIABLE, str(file))
    told_outputs.write(OUTPUTS)
    assert file.stat().st_mode & 0o777 == 0o600
    assert told_outputs.take(file) == OUTPUTS
    assert not file.exists()
    assert told_outputs.take(file) is None


@pytest.mark.parametrize("value", [None, ""])
def test_nothing_is_told_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv(told_outputs.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(told_outputs.VARIABLE, value)
    told_outputs.write(OUTPUTS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_another_has_put_there_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, file = tmp_path / "theirs", tmp_path / "outputs.json"
    file.symlink_to(theirs)
    monkeypatch.setenv(told_outputs.VARIABLE, str(file))
    with pytest.raises(FileExistsError):
        told_outputs.write(OUTPUTS)
    assert not theirs.exists()


def test_half_of_the_outputs_are_none(tmp_path: Path) -> None:
    file = tmp_path / "outputs.json"
    file.write_text(json.dumps(OUTPUTS)[:-5])
    assert told_outputs.take(file) is None
    assert not file.exists()
