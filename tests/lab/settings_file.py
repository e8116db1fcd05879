"""Another Pulumi.<stack>.yaml for a while, as a person would edit it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from lab.commands import STACK, settings_file


@contextmanager
def lab_settings(stack: str = STACK, **changes: Any) -> Iterator[None]:
    """Change keys of `lab`; a mapping is merged into the one that stands there. Put back in the end."""
    file = settings_file(stack)
    before = file.read_bytes()
    document = yaml.safe_load(before)
    lab = document["config"]["hardway:lab"]
    for key, value in changes.items():
        lab[key] = {**lab.get(key, {}), **value} if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    try:
        yield
    finally:
        file.write_bytes(before)
