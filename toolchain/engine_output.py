"""What the engine prints, made fit to read.

A command that fails is reported by its provider with the whole of its command line, on one line, ahead of what the
command said. Of a step on a machine that is short. A command on the Pulumi host is a script, as is what undoes a step:
here its first line names it, and `pulumi preview --diff` shows it.
"""

import re
from collections.abc import Iterable, Iterator

_SCRIPT = re.compile(r'running "((?:[^"\\]|\\.)*)"')
_LONGEST = 120
# The tool chain has said so already, once, with the reason.
_FROM_PATH = re.compile(r"\bwarning: using pulumi-(language|resource)-\S+ from \$PATH at ")


def readable(lines: Iterable[str]) -> Iterator[str]:
    """The lines with long scripts cut to their first line, and without the engine's word on plugins from PATH."""
    for line in lines:
        if not _FROM_PATH.search(line):
            yield _SCRIPT.sub(_named, line)


def _named(script: re.Match[str]) -> str:
    if len(script[1]) <= _LONGEST:
        return script[0]
    first = script[1].split("\\n", 1)[0][:_LONGEST]
    return f'running "{first} ..."'
