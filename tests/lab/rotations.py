"""What `rotate` says of its stages."""

import re

_STAGE = re.compile(r"^Done in (?P<seconds>[0-9.]+) s: (?P<stage>.*)\.$", re.MULTILINE)


def stages(output: str) -> str:
    """A line for each stage that was done, with its seconds."""
    return "".join(f"  {stage['seconds']:>6} s  {stage['stage']}\n" for stage in _STAGE.finditer(output))
