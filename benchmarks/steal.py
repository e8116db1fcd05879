"""Processor time that this machine was ready to use and did not get: other virtual machines of its host had it."""

from pathlib import Path

_STAT = Path("/proc/stat")
_STEAL = 7
# user, nice, system, idle, iowait, irq, softirq, steal; guest time, which follows, is part of user and nice.
_FIELDS = 8


class Steal:
    """Counts from when it is made.

    Source: proc_stat(5).
    """

    def __init__(self) -> None:
        self._before = _ticks()

    @property
    def share(self) -> float:
        """Of all the time of all processors since then, 0 to 1. 0 where the machine is not virtual."""
        spent = [after - before for before, after in zip(self._before, _ticks(), strict=True)]
        return spent[_STEAL] / max(1, sum(spent))


def _ticks() -> list[int]:
    """Of all processors, by kind."""
    name, *ticks = _STAT.read_text().partition("\n")[0].split()
    assert name == "cpu"
    return [int(each) for each in ticks[:_FIELDS]]
