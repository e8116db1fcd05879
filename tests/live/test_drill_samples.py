"""What tries mean in seconds: gaps, spans of errors, and when it was over."""

import pytest

from live.drills.samples import Sample, back_after, between, errors_for, longest_gap


def good(*ends: float) -> list[Sample]:
    return [Sample(began=end - 0.1, ended=end) for end in ends]


def bad(*ends: float, took: float = 1.0) -> list[Sample]:
    return [Sample(began=end - took, ended=end, error="timed out") for end in ends]


def test_a_gap_is_from_one_good_answer_to_the_next() -> None:
    assert longest_gap([*good(10.2, 10.4, 13.0, 13.2), *bad(11.5, 12.5)], 10, 14) == pytest.approx(2.6)


def test_a_gap_begins_with_the_fault_and_lasts_until_the_end() -> None:
    """Answers of before, or none any more, must not make a loss look short."""
    assert longest_gap(good(9.9, 12.0, 12.1), 10, 12.5) == pytest.approx(2.0)
    assert longest_gap(good(10.1, 10.2), 10, 20) == pytest.approx(9.8)
    assert longest_gap([], 10, 20) == pytest.approx(10)


def test_errors_last_from_the_first_try_that_fails_to_the_end_of_the_last() -> None:
    """One good answer between two failures does not end the trouble: every third client still hangs."""
    samples = [*good(10.5), *bad(12.0), *good(12.5), *bad(15.0), *good(15.2)]
    assert errors_for(samples, 10, 20) == pytest.approx(4.0)
    assert errors_for(good(11, 12), 10, 20) == 0


def test_a_try_that_began_before_the_fault_counts_from_the_fault() -> None:
    assert errors_for(bad(10.5), 10, 20) == pytest.approx(0.5)


def test_what_happened_outside_of_the_span_does_not_count() -> None:
    samples = [*bad(9.0, 21.0), *good(11.0)]
    assert errors_for(samples, 10, 20) == 0
    assert between(samples, 10, 20) == good(11.0)


def test_it_is_over_with_the_first_good_answer_after_the_last_failure() -> None:
    assert back_after([*bad(11.0), *good(12.0), *bad(13.0), *good(14.0, 15.0)], 10, 20) == pytest.approx(4.0)


def test_it_is_not_over_while_the_last_try_has_failed() -> None:
    assert back_after([*good(11.0), *bad(12.0)], 10, 20) is None
    assert back_after([], 10, 20) is None


def test_it_never_began_where_nothing_failed() -> None:
    assert back_after(good(11.0), 10, 20) == 0


def test_the_order_in_which_tries_were_noted_does_not_matter() -> None:
    samples = [*good(14.0), *bad(13.0)]
    assert back_after(samples, 10, 20) == back_after(list(reversed(samples)), 10, 20) == pytest.approx(4.0)
