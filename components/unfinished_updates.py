"""Updates of commands that did not finish: the next run does them again.

After a failed update the engine keeps the inputs from before it, while the machine may have half of the new ones. With
the old configuration put back, the inputs are equal, and the engine would run nothing. The same holds for a run that
was killed during an update.

The engine calls the program before and after each update. Before it, the time goes into a record, and stays there if
the update fails. In the next run, a comment with that time stands in the command's `create`: the input has changed, so
the engine updates the resource. The comment stays for as long as the record is there, and the runs after it find no
change. Without the record, as in another checkout, such a command runs once more; all of them are idempotent.
"""

import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pulumi

from config.whole_file import write_whole

_COMMANDS = ("command:local:Command", "command:remote:Command")


class UnfinishedUpdates:
    """The record of one stack's unfinished updates.

    Args:
        record: a JSON file: type and name of the resource -> when its last unfinished update began.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._lock = threading.Lock()
        self._in_inputs = _read(record)

    def run_again(self) -> None:
        """Have the commands of the program recorded, and those run again that are in the record.

        To be called before the first resource is made.
        """
        binding = pulumi.ResourceHookBinding(
            before_update=[pulumi.ResourceHook("hardway-update-begins", self._begins)],
            after_update=[pulumi.ResourceHook("hardway-update-is-done", self._is_done)],
        )

        def transform(args: pulumi.ResourceTransformationArgs) -> pulumi.ResourceTransformationResult | None:
            # Another `create` would replace these. Where a replacement fails, the engine itself goes on with it.
            if args.type_ not in _COMMANDS or "create" in (args.opts.replace_on_changes or ()):
                return None
            props, began = dict(args.props), self._in_inputs.get(f"{args.type_}::{args.name}")
            if began:
                props["create"] = pulumi.Output.concat(props["create"], f" # again: unfinished since {began}")
            opts = pulumi.ResourceOptions.merge(args.opts, pulumi.ResourceOptions(hooks=binding))
            return pulumi.ResourceTransformationResult(props, opts)

        pulumi.runtime.register_stack_transformation(transform)

    def _begins(self, args: pulumi.ResourceHookArgs) -> None:
        self._write(_key(args.urn), datetime.now(UTC).isoformat())

    def _is_done(self, args: pulumi.ResourceHookArgs) -> None:
        key = _key(args.urn)
        self._write(key, self._in_inputs.get(key))

    def _write(self, key: str, began: str | None) -> None:
        with self._lock:
            entries = {**_read(self._record), key: began}
            text = json.dumps({each: time for each, time in sorted(entries.items()) if time}, indent=1)
            self._record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._record, f"{text}\n", mode=0o644)


def _key(urn: str) -> str:
    """Type and name, out of urn:pulumi:stack::project::parents$type::name."""
    _, _, types, name = urn.split("::", 3)
    return f"{types.rpartition('$')[2]}::{name}"


def _read(record: Path) -> Mapping[str, str | None]:
    try:
        found = json.loads(record.read_text())
    # Cut short by a power failure, or another user's: as without the record.
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
