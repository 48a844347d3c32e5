"""The clock believes rows, but not blindly."""

import numpy as np

from detectors.event_time import DAY_MS, HOUR_MS, Doubt, EventClock
from tests.rows import START_MS, Row, batch


def advance(rows: list[Row], clock_ms: int = 0) -> tuple[list[bool], list[int]]:
    """Which rows are misclocked, and the clock behind each, relative to START_MS."""
    progress = EventClock().advance(clock_ms, Doubt(), batch(rows), np.ones(len(rows), np.bool_))
    return progress.misclocked.tolist(), [after - START_MS for after in progress.after_ms.tolist()]


def test_time_never_goes_back() -> None:
    assert advance([Row(id=1, at_ms=5_000), Row(id=2, at_ms=1_000), Row(id=3, at_ms=6_000)])[1] == [5_000, 5_000, 6_000]


def test_a_row_pushes_the_clock_no_further_than_its_arrival() -> None:
    rows = [Row(id=1, at_ms=59 * 60_000, received_ms=1_000), Row(id=2, at_ms=2_000, received_ms=2_500)]
    assert advance(rows) == ([False, False], [1_000, 2_000])


def test_too_far_from_arrival_is_misclocked_on_both_sides() -> None:
    rows = [
        Row(id=1, at_ms=HOUR_MS, received_ms=0),
        Row(id=2, at_ms=HOUR_MS + 1, received_ms=0),
        Row(id=3, at_ms=-7 * DAY_MS, received_ms=0),
        Row(id=4, at_ms=-7 * DAY_MS - 1, received_ms=0),
    ]
    assert advance(rows)[0] == [False, True, False, True]


def test_without_arrival_a_day_ahead_of_the_clock_is_misclocked() -> None:
    rows = [Row(id=1), Row(id=2, at_ms=DAY_MS), Row(id=3, at_ms=2 * DAY_MS + 1), Row(id=4, at_ms=DAY_MS + 1)]
    assert advance(rows) == ([False, False, True, False], [0, DAY_MS, DAY_MS, DAY_MS + 1])


def test_a_leap_does_not_vouch_for_the_next_leap() -> None:
    rows = [Row(id=1), Row(id=2, at_ms=3 * DAY_MS), Row(id=3, at_ms=3 * DAY_MS), Row(id=4, at_ms=10)]
    assert advance(rows) == ([False, True, True, False], [0, 0, 0, 10])


def after_a_gap(rows: int, every_ms: int, gap_ms: int = 3 * DAY_MS) -> list[Row]:
    return [Row(id=0)] + [Row(id=n, at_ms=gap_ms + n * every_ms) for n in range(1, rows + 1)]


def test_a_clock_that_was_left_behind_moves_on() -> None:
    misclocked, clocks = advance(after_a_gap(110, 4_000))
    assert misclocked == [False] + [True] * 99 + [False] * 11
    assert clocks[99:101] == [0, 3 * DAY_MS + 100 * 4_000]


def test_so_many_rows_and_so_much_time_are_needed() -> None:
    assert all(advance(after_a_gap(200, 1_000))[0][1:])  # 200 s
    assert all(advance(after_a_gap(99, 60_000))[0][1:])
    assert all(advance(after_a_gap(1_000, 0))[0][1:])  # a clock that stands still


def test_one_row_that_is_not_in_doubt_is_enough_for_the_clock() -> None:
    rows = after_a_gap(150, 4_000)
    rows.insert(90, Row(id=1_000, at_ms=-50_000))
    assert advance(rows)[0] == [False] + [True] * 89 + [False] + [True] * 61


def test_rows_in_doubt_must_agree_with_each_other() -> None:
    rows = [Row(id=0)] + [Row(id=n, at_ms=(3 + n % 2 * 40) * DAY_MS + n * 4_000) for n in range(1, 400)]
    assert all(advance(rows)[0][1:])


def test_doubt_outlives_the_batch() -> None:
    rows, doubt, clock_ms, misclocked = after_a_gap(110, 4_000), Doubt(), 0, []
    for row in rows:
        progress = EventClock().advance(clock_ms, doubt, batch([row]), np.ones(1, np.bool_))
        clock_ms = int(progress.after_ms[-1])
        misclocked += progress.misclocked.tolist()
    assert misclocked == advance(rows)[0]


def test_rows_that_do_not_count_move_nothing() -> None:
    progress = EventClock().advance(START_MS, Doubt(), batch([Row(id=1, at_ms=9_000)]), np.array([False]))
    assert progress.after_ms.tolist() == [START_MS]
    assert progress.misclocked.tolist() == [False]
