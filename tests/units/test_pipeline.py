"""Every submit is accounted for once, in the pane of its event time."""

from detectors.batch import empty_batch
from detectors.contract import PANE_MS, Pane
from detectors.event_time import DAY_MS
from detectors.forgetting import Retention
from detectors.panes import OpenPanes
from detectors.pipeline import Pipeline
from detectors.registry import Registry
from tests.rows import START_MS, Row, batch

PIPELINE = Pipeline(lateness_ms=10_000)


def counts(panes: list[Pane]) -> dict[tuple[int, str], tuple[int, int, int, int]]:
    """(pane start, port) -> submits, retries, recipients, carried segments; times relative to START_MS."""
    return {
        (pane.start_ms - START_MS, pane.groups.keys[group].access_port): (
            int(pane.submits[row]),
            int(pane.retries[row]),
            int(pane.recipients[row]),
            int(pane.segments[row]),
        )
        for pane in panes
        for row, group in enumerate(pane.group.tolist())
    }


def test_a_pane_closes_when_event_time_has_passed_it_by_the_lateness() -> None:
    state = PIPELINE.start("t", 0)
    rows = [Row(id=1), Row(id=2, at_ms=9_999), Row(id=3, at_ms=10_000), Row(id=4, at_ms=19_999)]
    assert PIPELINE.step(state, batch(rows), Registry()).panes == []
    outcome = PIPELINE.step(state, batch([Row(id=5, at_ms=20_000)]), Registry())
    assert counts(outcome.panes) == {(0, "10690010"): (2, 0, 2, 2)}
    assert outcome.panes[0].watermark_ms == START_MS + 10_000


def test_an_idle_partition_is_moved_on_by_the_shell() -> None:
    state = PIPELINE.start("t", 0)
    PIPELINE.step(state, batch([Row(id=1)]), Registry())
    outcome = PIPELINE.step(state, empty_batch(START_MS + 20_000), Registry())
    assert counts(outcome.panes) == {(0, "10690010"): (1, 0, 1, 1)}


def test_recipients_and_segments_are_counted_and_retries_are_not_new_traffic() -> None:
    state = PIPELINE.start("t", 0)
    rows = [
        Row(id=1, recipients=99, segments=2),
        Row(id=2, recipients=99, segments=2, is_retry=True),
        Row(id=3, recipients=3),
    ]
    PIPELINE.step(state, batch(rows), Registry())
    outcome = PIPELINE.step(state, empty_batch(START_MS + DAY_MS), Registry())
    assert counts(outcome.panes) == {(0, "10690010"): (2, 1, 102, 201)}


def test_a_late_row_amends_and_is_never_now() -> None:
    state = PIPELINE.start("t", 0)
    PIPELINE.step(state, batch([Row(id=1), Row(id=2, at_ms=25_000)]), Registry())
    outcome = PIPELINE.step(state, batch([Row(id=3, at_ms=1_000), Row(id=4, at_ms=30_000)]), Registry())
    assert counts(outcome.amendments) == {(0, "10690010"): (1, 0, 1, 1)}
    assert (state.tally.counted, state.tally.late) == (3, 1)


def test_late_rows_are_told_apart_by_pane_and_by_what_was_closed_when_they_came() -> None:
    state = PIPELINE.start("t", 0)
    rows = [Row(id=0, at_ms=60_000)]
    rows += [Row(id=n, at_ms=at_ms) for n, at_ms in enumerate((31_000, 1_000, 39_000, 2_000, 70_000, 3_000), 1)]
    outcomes = [PIPELINE.step(state, batch(rows), Registry())]
    outcomes.append(PIPELINE.step(state, empty_batch(START_MS + DAY_MS), Registry()))
    told = [
        (pane.watermark_ms - START_MS, pane.start_ms - START_MS, pane.submits.tolist(), pane.first_offset.tolist())
        for outcome in outcomes
        for pane in outcome.amendments
    ]
    assert told == [(50_000, 0, [2], [2]), (50_000, 30_000, [2], [1]), (60_000, 0, [1], [6])]
    assert (state.tally.counted, state.tally.late) == (2, 5)


def test_first_wins_among_equal_event_ids() -> None:
    state = PIPELINE.start("t", 0)
    PIPELINE.step(state, batch([Row(id=1), Row(id=1, port="10690099"), Row(id=2)]), Registry())
    PIPELINE.step(state, batch([Row(id=2)]), Registry())
    outcome = PIPELINE.step(state, empty_batch(START_MS + DAY_MS), Registry())
    assert counts(outcome.panes) == {(0, "10690010"): (2, 0, 2, 2)}
    assert state.tally.duplicate == 2


def test_the_balance_adds_up() -> None:
    state = PIPELINE.start("t", 0)
    rows = [Row(id=1), Row(id=1), Row(id=2, at_ms=2 * DAY_MS, received_ms=0), Row(id=3, at_ms=60_000), Row(id=4)]
    PIPELINE.step(state, batch(rows), Registry(), {"not-json": 2})
    tally = state.tally
    assert (tally.submits_in, tally.counted, tally.late, tally.misclocked, tally.duplicate) == (7, 2, 1, 1, 1)
    assert tally.rejected == {"not-json": 2}
    assert tally.difference == 0
    assert (tally.first_event_ms, tally.last_event_ms) == (START_MS, START_MS + 60_000)


def test_a_day_without_traffic_costs_nothing_and_a_future_pane_waits() -> None:
    state = PIPELINE.start("t", 0)
    PIPELINE.step(state, batch([Row(id=1, at_ms=50 * 60_000, received_ms=0), Row(id=2, received_ms=1)]), Registry())
    outcome = PIPELINE.step(state, batch([Row(id=3, at_ms=30 * 60_000, received_ms=30 * 60_000)]), Registry())
    assert list(counts(outcome.panes)) == [(0, "10690010")]
    outcome = PIPELINE.step(state, empty_batch(START_MS + DAY_MS), Registry())
    assert list(counts(outcome.panes)) == [(30 * 60_000, "10690010"), (50 * 60_000, "10690010")]


def test_beyond_the_ceiling_of_groups_rows_are_counted_together() -> None:
    pipeline = Pipeline(group_limit=2)
    state = pipeline.start("t", 0)
    pipeline.step(state, batch([Row(id=n, port=f"1069001{n}") for n in range(5)]), Registry())
    outcome = pipeline.step(state, empty_batch(START_MS + DAY_MS), Registry())
    assert counts(outcome.panes) == {
        (0, ""): (3, 0, 3, 3),
        (0, "10690010"): (1, 0, 1, 1),
        (0, "10690011"): (1, 0, 1, 1),
    }
    assert state.groups.overflowed == 3
    assert state.tally.counted == 5


def test_late_rows_are_told_in_turns_though_event_time_stands_still() -> None:
    state = PIPELINE.start("t", 0)
    state.open = OpenPanes(turn_rows=2)
    rows = [Row(id=0, at_ms=60_000), *(Row(id=n) for n in range(1, 6))]
    outcome = PIPELINE.step(state, batch(rows), Registry())
    assert [(pane.submits.tolist(), pane.first_offset.tolist()) for pane in outcome.amendments] == [
        ([2], [1]),
        ([2], [3]),
    ]
    outcome = PIPELINE.step(state, batch([Row(id=9)], first_offset=6), Registry())
    assert counts(outcome.amendments) == {(0, "10690010"): (2, 0, 2, 2)}


def test_a_pane_far_ahead_counts_so_many_groups_and_the_others_together() -> None:
    state = PIPELINE.start("t", 0)
    state.open = OpenPanes(ahead_limit=2)
    ahead = [Row(id=n, at_ms=600_000, received_ms=0, port=f"1069001{n % 4}") for n in range(12)]
    PIPELINE.step(state, batch(ahead), Registry())
    assert PIPELINE.ceilings(state)["groups_of_one_pane_ahead"] == (2, 2, 6)
    PIPELINE.step(state, batch([Row(id=99, at_ms=595_000), Row(id=100, at_ms=601_000, port="10690019")]), Registry())
    outcome = PIPELINE.step(state, empty_batch(START_MS + DAY_MS), Registry())
    assert counts(outcome.panes[1:]) == {
        (600_000, ""): (6, 0, 6, 6),
        (600_000, "10690010"): (3, 0, 3, 3),
        (600_000, "10690011"): (3, 0, 3, 3),
        (600_000, "10690019"): (1, 0, 1, 1),
    }


def test_panes_that_were_closed_keep_their_names_when_codes_are_used_again() -> None:
    pipeline = Pipeline(detectors=(), retention=Retention(group_ms=DAY_MS // 2, port_ms=DAY_MS // 2))
    state = pipeline.start("t", 0)
    rows = [
        Row(id=0, port="10690010"),
        Row(id=1, at_ms=DAY_MS, port="10690011"),
        Row(id=2, at_ms=DAY_MS, port="10690012"),
    ]
    outcome = pipeline.step(state, batch(rows), Registry())
    assert counts(outcome.panes) == {(0, "10690010"): (1, 0, 1, 1)}
    assert state.groups.ports == ["", "10690011", "10690012"]


def test_panes_are_aligned_to_the_epoch() -> None:
    assert START_MS % PANE_MS == 0
