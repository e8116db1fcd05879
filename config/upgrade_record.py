"""The record of an upgrade that is not finished: .state/<stack>/upgrade.json, written by `./hardway upgrade`.

With it a lab may return to the versions that it had before: no other downgrade is permitted. The program reads it, too,
so that plain `pulumi` permits the same.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from config import paths
from config.whole_file import write_whole

_FILE = "upgrade.json"


@dataclass(frozen=True, kw_only=True)
class UpgradeRecord:
    """An upgrade.

    Args:
        before: product -> the version that it began from.
        after: product -> the version that it leads to.
        snapshot: the file with the content of etcd from before.
        returning: whether it is being rolled back.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    snapshot: str
    returning: bool = False

    @property
    def wanted(self) -> Mapping[str, str]:
        """The versions that it leads to now."""
        return self.before if self.returning else self.after

    def __str__(self) -> str:
        return said(self.before, self.after)


def said(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A change of versions in words."""
    return ", ".join(f"{product} {before[product]} to {version}" for product, version in after.items())


def read(stack: str) -> UpgradeRecord | None:
    """The record of a stack; None where no upgrade is unfinished."""
    try:
        found = json.loads(_file(stack).read_text())
        return UpgradeRecord(
            before=dict(found["before"]),
            after=dict(found["after"]),
            snapshot=str(found["snapshot"]),
            returning=bool(found["returning"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        # It is written at once or not at all: one that cannot be read is not ours, and permits nothing.
        return None


def write(stack: str, record: UpgradeRecord) -> None:
    """Write the record of a stack, completely or not at all."""
    write_whole(_file(stack), f"{json.dumps(asdict(record), indent=1)}\n".encode(), mode=0o600)


def remove(stack: str) -> None:
    """Remove the record of a stack: the upgrade is finished."""
    _file(stack).unlink(missing_ok=True)


def permitted(stack: str) -> Mapping[str, str]:
    """Product -> the version that the lab may return to."""
    record = read(stack)
    return record.before if record else {}


def _file(stack: str) -> Path:
    return paths.state() / stack / _FILE
