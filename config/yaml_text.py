"""YAML by libyaml, which is part of PyYAML's wheels: ten times faster than PyYAML's own Python, with the same result.

For files of this project and what the program writes. What users write is read by PyYAML's own: its errors say more.
"""

from collections.abc import Iterable
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def load(text: str) -> Any:
    """The one document of a text."""
    return yaml.load(text, Loader=_LOADER)


def dump(document: Any) -> str:
    """A document, its keys in their order."""
    written: str = yaml.dump(document, Dumper=_DUMPER, sort_keys=False)
    return written


def dump_all(documents: Iterable[Any]) -> str:
    """Several documents, likewise."""
    written: str = yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=False)
    return written
