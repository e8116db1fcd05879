"""What is measured while something is broken: each a question to what the probes saw, with a bar in seconds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from live.cluster import LiveMachine
from live.drills.probes import View
from live.drills.samples import Sample, back_after, errors_for, longest_gap

API_WRITER, API_CLIENT, ETCD_WRITER = "API writer", "API client", "etcd writer"
POD_SERVICE, POD_DNS = "pod's Service client", "pod's DNS client"
READERS = (API_CLIENT, POD_SERVICE, POD_DNS)
PROBES = (API_WRITER, API_CLIENT, ETCD_WRITER, POD_SERVICE, POD_DNS)

SPACE_EXCEEDED = "database space exceeded"


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was seen in one drill; times are seconds since the epoch.

    Args:
        target: the machine that is hit; nothing where all are.
        workers: the nodes' names.
        before: what the API said before.
        injected_at: when the fault was injected.
        until: when the repair began, or now.
        served: when a killed program served again.
        samples: the tries of each of PROBES.
        views: what the API said, one after the other.
    """

    target: LiveMachine | None
    workers: Sequence[str]
    before: View
    injected_at: float
    until: float
    served: float | None = None
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    views: Sequence[View] = ()


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of seconds that a drill measures.

    Args:
        what: in words, as it stands in the table.
        seconds: what was seen; None where it has not come (yet): a bar is missed then.
        bar: at most so many; None where it is only shown.
        applies: whether the target has anything to do with it.
        after_relief: it is measured during and after the repair, not before.
    """

    what: str
    seconds: Callable[[Observed], float | None]
    bar: float | None = None
    applies: Callable[[Observed], bool] = lambda seen: True
    after_relief: bool = False


def first_view(seen: Observed, holds: Callable[[View], bool]) -> float | None:
    """Seconds from the fault until the API first said so."""
    return next((view.at - seen.injected_at for view in seen.views if view.at > seen.injected_at and holds(view)), None)


def etcd_writes_again(bar: float | None = None) -> Measure:
    """The longest time in which no write to etcd was acknowledged."""
    return _gap_of("etcd writes again in", ETCD_WRITER, bar)


def api_errors_for(bar: float | None = None) -> Measure:
    """From the first to the last error of the API's client."""
    return failures_for("API errors for", API_CLIENT, bar)


def api_silent_for(bar: float | None = None) -> Measure:
    """The longest time without a good answer of the API to its client."""
    return _gap_of("API without an answer for", API_CLIENT, bar)


def api_writes_again() -> Measure:
    """The longest time in which no write to the API was acknowledged."""
    return _gap_of("API writes again in", API_WRITER)


def _gap_of(what: str, probe: str, bar: float | None = None) -> Measure:
    """The longest time in which a probe had no success."""
    return Measure(
        what=what, seconds=lambda seen: longest_gap(seen.samples[probe], seen.injected_at, seen.until), bar=bar
    )


def new_leader(program: str, bar: float) -> Measure:
    """Until another instance leads, where the target had the leader."""

    def seconds(seen: Observed) -> float | None:
        old = seen.before.leaders[program]
        return first_view(seen, lambda view: view.leaders[program] not in ("", old))

    def led(seen: Observed) -> bool:
        return seen.target is not None and seen.before.leaders[program].rpartition("_")[0] == seen.target.name

    return Measure(what=f"new leader of {program} in", seconds=seconds, bar=bar, applies=led)


def out_of_endpoints(bar: float) -> Measure:
    """Until the target's API server is no longer an endpoint of the Service kubernetes."""

    def seconds(seen: Observed) -> float | None:
        assert seen.target is not None
        address = seen.target.address
        return first_view(seen, lambda view: address not in view.api_servers)

    def had(seen: Observed) -> bool:
        return seen.target is not None and seen.target.address in seen.before.api_servers

    return Measure(what="API server out of the endpoints in", seconds=seconds, bar=bar, applies=had)


def served_again(bar: float) -> Measure:
    """Until the killed program serves."""
    return Measure(
        what="serves again in",
        seconds=lambda seen: None if seen.served is None else seen.served - seen.injected_at,
        bar=bar,
    )


def not_ready(bar: float) -> Measure:
    """Until the target's Node is no longer called Ready."""

    def seconds(seen: Observed) -> float | None:
        assert seen.target is not None
        name = seen.target.name
        return first_view(seen, lambda view: name not in view.ready)

    return Measure(what="Node NotReady in", seconds=seconds, bar=bar)


def all_nodes_ready(bar: float) -> Measure:
    """Until every Node is Ready and its kubelet was heard since: Ready alone may be what was said before."""

    def holds(seen: Observed, view: View) -> bool:
        return all(name in view.ready and view.heard.get(name, 0) > seen.injected_at for name in seen.workers)

    return Measure(
        what="all nodes Ready in",
        seconds=lambda seen: first_view(seen, lambda view: holds(seen, view)),
        bar=bar,
    )


def back(what: str, probe: str, bar: float) -> Measure:
    """Until a probe has no more failures; something must have failed, or nothing was broken."""

    def seconds(seen: Observed) -> float | None:
        return back_after(seen.samples[probe], seen.injected_at, seen.until) or None

    return Measure(what=what, seconds=seconds, bar=bar)


def failures_for(what: str, probe: str, bar: float | None = None) -> Measure:
    """From the first to the last failure of a probe."""
    return Measure(
        what=what, seconds=lambda seen: errors_for(seen.samples[probe], seen.injected_at, seen.until), bar=bar
    )


def refused_clearly(bar: float) -> Measure:
    """The longest that a write to the API waited for its refusal; nothing where one was refused for another reason."""

    def seconds(seen: Observed) -> float | None:
        refused = [
            each for each in seen.samples[API_WRITER] if each.error and seen.injected_at < each.began < seen.until
        ]
        # Most of them, since what was under way at either end may have failed otherwise.
        clear = [each for each in refused if SPACE_EXCEEDED in each.error]
        return max(each.ended - each.began for each in clear) if clear and len(clear) >= 0.9 * len(refused) else None

    return Measure(what="writes fail with a clear error, within", seconds=seconds, bar=bar)


def writes_after_remedy(bar: float) -> Measure:
    """From the beginning of the remedy to the first acknowledged write to the API."""

    def seconds(seen: Observed) -> float | None:
        good = [each.ended for each in seen.samples[API_WRITER] if not each.error and each.began > seen.until]
        return good[0] - seen.until if good else None

    return Measure(what="API writes again after the repair began in", seconds=seconds, bar=bar, after_relief=True)


def errors(samples: Iterable[Sample]) -> dict[str, int]:
    """What went wrong -> how often, the most frequent first."""
    counted: dict[str, int] = {}
    for sample in samples:
        if sample.error:
            counted[sample.error] = counted.get(sample.error, 0) + 1
    return dict(sorted(counted.items(), key=lambda entry: -entry[1]))
