"""The modules of Pulumi's protocol without the rest of its SDK, for plugins that run no program, or not yet."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_placeholders: dict[str, ModuleType] = {}


def alone() -> None:
    """Let `pulumi.runtime.proto` be imported, and nothing with it.

    A module brings the packages that it stands in, and here these are the whole SDK: half of the time in which a plugin
    starts, and the engine starts one after the other. Only for a process that is a plugin, see `whole`.
    """
    found = importlib.util.find_spec("pulumi")
    if found is None or found.origin is None:
        raise ImportError("there is no pulumi here")
    location = Path(found.origin).parent
    for name, directory in (("pulumi", location), ("pulumi.runtime", location / "runtime")):
        package = ModuleType(name)
        package.__path__ = [str(directory)]
        sys.modules[name] = _placeholders[name] = package


def whole() -> None:
    """Import the SDK after all, for a plugin that is to run a program now. The protocol's modules stay as they are."""
    if not _placeholders:
        return
    for name in _placeholders:
        del sys.modules[name]
    _placeholders.clear()
    runtime = importlib.import_module("pulumi").runtime
    # A module becomes an attribute of its package only where the package was there when it was imported.
    runtime.proto = sys.modules["pulumi.runtime.proto"]
