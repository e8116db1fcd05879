"""What labs that were made by earlier versions have in their state, and cannot be removed with.

Pulumi removes a resource by the script that is in the state, not by the program's. Docker refuses two that were:
`docker rm` knows no -t, and `docker network rm` no -f before Docker 23. The program for existing hosts was the module
`hosts`. They are repaired in the state.
"""

import json
import re
from typing import Any

_LOCAL = "command:local:Command"
# Each begins with a literal, which `re` finds quickly: they are looked for in the whole state.
_REPAIRS = (
    (re.compile(r"docker rm -f -t 0 -v "), "docker rm -f -v "),
    (re.compile(r"docker network rm -f "), "docker network rm "),
    (
        re.compile(r"\.venv/bin/python -m hosts (?=leave |close-way |withdraw )"),
        ".venv/bin/python -m components.substrates.existing ",
    ),
)


def repaired(deployment: dict[str, Any]) -> dict[str, Any] | None:
    """The deployment, as `pulumi stack export` has it, with scripts that work; None where all of them do."""
    changed = False
    for resource in (deployment.get("deployment") or {}).get("resources") or []:
        if resource.get("type") != _LOCAL:
            continue
        for values in (resource.get("inputs") or {}, resource.get("outputs") or {}):
            script = values.get("delete")
            if isinstance(script, str) and (better := _repaired(script)) != script:
                values["delete"] = better
                changed = True
    return deployment if changed else None


def needs_repair(deployment: Any) -> bool:
    """Whether there is such a script in a deployment, however it is written down."""
    text = json.dumps(deployment)
    return any(pattern.search(text) for pattern, _ in _REPAIRS)


def _repaired(script: str) -> str:
    for pattern, better in _REPAIRS:
        script = pattern.sub(better, script)
    return script
