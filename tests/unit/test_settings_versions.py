"""`upgrade` writes versions into a settings file: nothing else in it changes, whatever way it is written in."""

from pathlib import Path

import pytest
import yaml

from config import settings_file
from config.errors import UserError

HEAD = "# Mine.\nconfig:\n  other:key: 1\n  toy:lab:\n"


@pytest.mark.parametrize(
    ("lab", "expected"),
    [
        ("    workers: 2\n", "    versions: {kubernetes: 1.36.4}\n    workers: 2\n"),
        (
            "    # Why.\n    workers: 2 # two\n\n  toy:rotations: {ca: 1}\n",
            "    # Why.\n    versions: {kubernetes: 1.36.4}\n    workers: 2 # two\n\n  toy:rotations: {ca: 1}\n",
        ),
        (
            "    versions: {etcd: 3.6.14, kubernetes: 1.35.8} # pinned\n",
            "    versions: {etcd: 3.6.14, kubernetes: 1.36.4} # pinned\n",
        ),
        (
            "    versions:\n      # For now.\n      kubernetes: 1.35.8 # old\n      etcd: 3.6.14\n    workers: 2\n",
            "    versions:\n      # For now.\n      kubernetes: 1.36.4 # old\n      etcd: 3.6.14\n    workers: 2\n",
        ),
        ("    versions:\n      kubernetes: '1.35.8'\n", "    versions:\n      kubernetes: 1.36.4\n"),
        (
            "    workers: 2\n    versions:\n      etcd: 3.6.14\n",
            "    workers: 2\n    versions:\n      etcd: 3.6.14\n      kubernetes: 1.36.4\n",
        ),
    ],
)
def test_the_version_alone_changes(tmp_path: Path, lab: str, expected: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(HEAD + lab)
    settings_file.write_versions(file, "toy", {"kubernetes": "1.36.4"})
    assert file.read_text() == HEAD + expected
    settings_file.write_versions(file, "toy", {"kubernetes": "1.36.4"})
    assert file.read_text() == HEAD + expected
    assert yaml.safe_load(file.read_text())["config"]["toy:lab"]["versions"]["kubernetes"] == "1.36.4"


@pytest.mark.parametrize("text", ["config:\n  toy:lab: {workers: 2}\n", "config: {'toy:lab': {}}\n", "", "config:\n"])
def test_a_file_without_a_place_is_left_as_it_is_and_says_what_to_write(tmp_path: Path, text: str) -> None:
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"nothing was changed[^~]*kubernetes: 1\.36\.4"):
        settings_file.write_versions(file, "toy", {"kubernetes": "1.36.4"})
    assert file.read_text() == text
