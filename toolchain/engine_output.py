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
# The engine counts them in the last line of the stack: "created (42s) 3 warnings", "1 error; 3 warnings; 2 messages".
_STACK = "pulumi:pulumi:Stack "
_COUNT = re.compile(r"; \d+ warnings?\b|\b\d+ warnings?(; |$)")
_DIAGNOSTICS = "Diagnostics:"
_RESOURCE = re.compile(r"  \S+ \(.+\):")
_MESSAGE = "    "


def readable(lines: Iterable[str]) -> Iterator[str]:
    """The lines with long scripts cut to their first line, and without the engine's word on plugins from PATH."""
    headings: list[str] = []
    is_dropped = False
    for line in lines:
        if _FROM_PATH.search(line):
            is_dropped = True
        elif is_dropped and (line.rstrip() == _DIAGNOSTICS or _RESOURCE.fullmatch(line.rstrip())):
            headings.append(line)
        elif headings and not line.strip():
            # Nothing is left below this heading; one that has a message is printed already.
            headings.pop()
        else:
            if line.startswith(_MESSAGE):
                yield from headings
            headings.clear()
            shown = _SCRIPT.sub(_named, line)
            yield _COUNT.sub("", shown) if is_dropped and _STACK in shown else shown


def _named(script: re.Match[str]) -> str:
    if len(script[1]) <= _LONGEST:
        return script[0]
    first = script[1].split("\\n", 1)[0][:_LONGEST]
    return f'running "{first} ..."'
