"""The large lines at the top of the page: etcd's leader, the API, and who leads the other programs."""

from dataclasses import dataclass
from typing import Literal

from live.view.now import LabNow, LeaseNow

_RECENT_SECONDS = 60
_TITLES = {"kube-controller-manager": "Controller manager", "kube-scheduler": "Scheduler"}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One of them.

    Args:
        id: its name in the page.
        level: its colour; the text says the same.
        title: what it is about.
        text: in very large letters.
        note: in large letters.
    """

    id: str
    level: Literal["good", "bad", "changed", "unknown"]
    title: str
    text: str
    note: str = ""


class Holder:
    """Who has led, and since when: for one program. Times are `time.monotonic`."""

    def __init__(self) -> None:
        self.current: str | None = None
        self.before: str | None = None
        self.lost_at: float | None = None
        self.changed_at: float | None = None
        self.gap: float | None = None

    def update(self, leads: str | None, now: float) -> None:
        """Note who leads now; None if no one does."""
        if leads == self.current:
            return
        if leads is None:
            self.before, self.current, self.lost_at = self.current, None, now
            return
        if self.current is not None:
            self.before, self.gap, self.changed_at = self.current, 0.0, now
        elif self.lost_at is not None:
            self.gap, self.changed_at = now - self.lost_at, now
        self.current, self.lost_at = leads, None

    def recent(self, now: float) -> str:
        """What changed within the last minute; empty if nothing did."""
        if self.changed_at is None or now - self.changed_at > _RECENT_SECONDS:
            return ""
        ago = f"{now - self.changed_at:.0f} s ago"
        lost = f", lost for {self.gap:.1f} s" if self.gap else ""
        return f"again since {ago}{lost}" if self.before == self.current else f"{ago}, before: {self.before}{lost}"


class Tiles:
    """All tiles, with what they remember from one moment to the next."""

    def __init__(self) -> None:
        self._etcd, self._api = Holder(), Holder()
        self._leases: dict[str, Holder] = {}

    def make(self, lab: LabNow, now: float) -> list[Tile]:
        """The tiles of a moment.

        Args:
            lab: what is known.
            now: `time.monotonic`.
        """
        return [self._etcd_tile(lab, now), self._api_tile(lab, now), *(self._lease_tile(e, now) for e in lab.leases)]

    def _etcd_tile(self, lab: LabNow, now: float) -> Tile:
        title, leader = "etcd leader", lab.leader
        if leader is None and not lab.etcd_known and self._etcd.current is None and self._etcd.lost_at is None:
            return Tile(id="etcd", level="unknown", title=title, text="…", note="asking the members")
        self._etcd.update(leader.machine if leader else None, now)
        answering = sum(1 for each in lab.members if each.answers)
        members = f"{answering} of {len(lab.members)} members answer"
        if leader is None:
            lost = now - self._etcd.lost_at if self._etcd.lost_at is not None else 0.0
            note = f"for {lost:.1f} s; it was {self._etcd.before}" if self._etcd.before else ""
            return Tile(id="etcd", level="bad", title=title, text="NO LEADER", note=_joined(note, members))
        recent = self._etcd.recent(now)
        level: Literal["good", "changed"] = "changed" if recent else "good"
        note = _joined(f"term {leader.term}", members, recent)
        return Tile(id="etcd", level=level, title=title, text=leader.machine, note=note)

    def _api_tile(self, lab: LabNow, now: float) -> Tile:
        if lab.api_ready is None:
            return Tile(id="api", level="unknown", title="API", text="…")
        self._api.update("answers" if lab.api_ready else None, now)
        if not lab.api_ready:
            lost = now - self._api.lost_at if self._api.lost_at is not None else 0.0
            note = f"for {lost:.1f} s" if self._api.lost_at is not None else lab.api_message
            return Tile(id="api", level="bad", title="API", text="NO ANSWER", note=note)
        recent = self._api.recent(now)
        up = {each.server for each in lab.backends if each.up and each.known}
        every = {each.server for each in lab.backends}
        behind = f"{len(up)} of {len(every)} backends up" if every else ""
        level: Literal["good", "changed"] = "changed" if recent else "good"
        return Tile(id="api", level=level, title="API", text="answers", note=_joined(behind, recent))

    def _lease_tile(self, lease: LeaseNow, now: float) -> Tile:
        title = _TITLES.get(lease.name, lease.name)
        holder = self._leases.setdefault(lease.name, Holder())
        if lease.renewed is None:
            return Tile(id=lease.name, level="unknown", title=title, text="…")
        holder.update(lease.holder, now)
        if lease.holder is None:
            lost = now - holder.lost_at if holder.lost_at is not None else 0.0
            note = f"lease free for {lost:.0f} s" + (f"; it was {holder.before}" if holder.before else "")
            return Tile(id=lease.name, level="bad", title=title, text="NO LEADER", note=note)
        if lease.holder_runs is False:
            note = f"does not run; its lease is free in {lease.left or 0:.0f} s"
            return Tile(id=lease.name, level="bad", title=title, text=lease.holder, note=note)
        recent = holder.recent(now)
        level: Literal["good", "changed"] = "changed" if recent else "good"
        return Tile(id=lease.name, level=level, title=title, text=lease.holder, note=_joined("holds the lease", recent))


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
