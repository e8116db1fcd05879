"""The modules of Pulumi's protocol without the rest of its SDK, for plugins that run no program."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def alone() -> None:
    """Let `pulumi.runtime.proto` be imported, and nothing with it.

    A module brings the packages that it stands in, and here these are the whole SDK: half of the time in which a plugin
    starts, and the engine starts one after the other. Only for a process that is a plugin and no more.
    """
    found = importlib.util.find_spec("pulumi")
    if found is None or found.origin is None:
        raise ImportError("there is no pulumi here")
    location = Path(found.origin).parent
    for name, directory in (("pulumi", location), ("pulumi.runtime", location / "runtime")):
        package = ModuleType(name)
        package.__path__ = [str(directory)]
        sys.modules[name] = package
