"""What a probe saw, one try after the other, and what that means in seconds. Times are seconds since the epoch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One try.

    Args:
        began: when.
        ended: when the answer, or the failure, was there.
        error: what went wrong; empty if nothing did.
    """

    began: float
    ended: float
    error: str = ""


def between(samples: Iterable[Sample], since: float, until: float) -> list[Sample]:
    """The tries that ended in a span of time."""
    return [sample for sample in samples if since <= sample.ended <= until]


def longest_gap(samples: Sequence[Sample], since: float, until: float) -> float:
    """The longest time without a good answer, in seconds: from one to the next, and at both ends of the span."""
    good = [sample.ended for sample in between(samples, since, until) if not sample.error]
    moments = sorted([since, *good, until])
    return max(later - earlier for earlier, later in pairwise(moments))


def errors_for(samples: Sequence[Sample], since: float, until: float) -> float:
    """How long a span had errors, in seconds: from the beginning of the first failed try to the end of the last."""
    failed = [sample for sample in between(samples, since, until) if sample.error]
    if not failed:
        return 0.0
    return max(sample.ended for sample in failed) - max(since, min(sample.began for sample in failed))


def back_after(samples: Sequence[Sample], since: float, until: float) -> float | None:
    """Seconds from the start of a span to the first good answer after its last failure.

    Returns:
        0 where nothing failed; None where nothing good has come since the last failure, or nothing at all.
    """
    seen = sorted(between(samples, since, until), key=lambda sample: sample.ended)
    failures = [place for place, sample in enumerate(seen) if sample.error]
    if not failures:
        return 0.0 if seen else None
    after = seen[failures[-1] + 1 :]
    return after[0].ended - since if after else None
