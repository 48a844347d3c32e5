"""Caps of the lease: what is counted, when a breach is told, and what never breaks the count of a day."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.contract import PANE_MS, Severity
from detectors.event_time import DAY_MS, HOUR_MS
from detectors.registry import Caps, PortLease, Registry
from detectors.volume.caps import CapsDetector
from tests.partition import Partition, panes
from tests.rows import START_MS, Row

PORT, OTHER = "10690010", "10690020"
MINUTE_MS = 60_000
MIDNIGHT_MS = 15 * HOUR_MS  # START_MS is nine in the morning


def leased(version: str = "1", **caps: Any) -> Registry:
    ports = (
        PortLease(access_port=PORT, lessee_id="E0", caps=Caps(**caps)),
        PortLease(access_port=OTHER, lessee_id="E1"),
    )
    return Registry(ports=ports, version=version)


def watched(**caps: Any) -> Partition:
    return Partition(leased(**caps), (CapsDetector(),))


def said(partition: Partition) -> list[tuple[str, str, Severity, int]]:
    return [(a.rule, a.state, a.severity, a.last_seen_ms - START_MS - PANE_MS) for a in partition.alerts]


# --- what is counted


def test_what_counts_are_carried_segments_without_retries() -> None:
    partition = watched(per_minute=100)
    partition.send(
        Row(id=0, recipients=10, segments=3),
        Row(id=0, recipients=99, segments=9, is_retry=True),
        Row(id=0, recipients=71),
    )
    partition.pass_to(MINUTE_MS)
    (alert,) = partition.told()
    assert (alert.evidence["observed"], alert.evidence["cap"]) == (101, 100)
    assert alert.ruled_out[0].en == "retries: 1 in the last 10 s, none of them counted"


def test_a_redelivery_is_not_counted_twice() -> None:
    partition = watched(per_day=150)
    for at_ms in (0, 500):
        partition.sent = 0  # the same id again
        partition.send(Row(id=0, at_ms=at_ms, recipients=100))
    partition.pass_to(HOUR_MS)
    assert partition.alerts == []


# --- the minute


def test_a_cap_that_is_just_reached_is_kept() -> None:
    partition = watched(per_minute=60, per_day=360)
    partition.send(*panes(36, recipients=10))
    partition.pass_to(HOUR_MS)
    assert partition.alerts == []


def test_a_minute_rolls() -> None:
    """Two halves of one minute that lie in two minutes of the clock, and two that lie further apart."""
    partition = watched(per_minute=100)
    partition.send(*panes(1, 3, recipients=60), *panes(1, 8, recipients=60))
    partition.send(*panes(1, 100, recipients=60), *panes(1, 106, recipients=60))
    partition.pass_to(HOUR_MS)
    assert said(partition) == [
        ("cap-minute", "open", Severity.WARNING, 8 * PANE_MS),
        ("cap-minute", "resolved", Severity.WARNING, 8 * PANE_MS),
    ]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 3), st.integers(1, 60)), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_the_minute_is_the_sum_of_six_panes_whatever_is_restarted(
    sends: list[tuple[int, int, int]], stops: list[int]
) -> None:
    """Told at the first pane that makes more than the cap with the five before it, and by whom."""
    partition = watched(per_minute=100)
    for n, (pane, extension, recipients) in enumerate(sorted(sends)):
        if n in stops:
            partition.restart()
        partition.send(Row(id=0, at_ms=pane * PANE_MS, recipients=recipients, extension=f"0{extension}"))
    partition.pass_to(DAY_MS)
    minutes = {last: [row for row in sends if last - 6 < row[0] <= last] for last in sorted({row[0] for row in sends})}
    breach = next(((last, rows) for last, rows in minutes.items() if sum(r for *_, r in rows) > 100), None)
    opened = next(iter(partition.told()), None)
    assert (opened is None) == (breach is None)
    if opened and breach:
        last, rows = breach
        assert opened.first_seen_ms == START_MS + last * PANE_MS
        assert opened.evidence["observed"] == sum(r for *_, r in rows)
        by_extension = {f"0{e}": sum(r for _, other, r in rows if other == e) for _, e, _ in rows}
        told = {line["extension"]: line["segments"] for line in opened.evidence["top_full_ports"]}
        assert told == by_extension


@pytest.mark.parametrize(
    ("segments", "severity"),
    [(101, Severity.INFO), (109, Severity.INFO), (110, Severity.WARNING), (200, Severity.CRITICAL)],
)
def test_severity_follows_how_far_it_is_beyond(segments: int, severity: Severity) -> None:
    partition = watched(per_minute=100)
    partition.send(*panes(1, recipients=segments))
    partition.pass_to(MINUTE_MS)
    assert [alert.severity for alert in partition.told()] == [severity]


def test_one_flood_is_one_episode_that_tells_since_when() -> None:
    partition = watched(per_minute=100)
    partition.send(*panes(1, recipients=50), *panes(30, 10, recipients=120))
    partition.pass_to(HOUR_MS)
    opened, *updates, resolved = partition.alerts
    assert (opened.state, opened.severity, resolved.state) == ("open", Severity.WARNING, "resolved")
    assert [(a.state, a.severity) for a in updates] == [("updated", Severity.CRITICAL)]
    assert {alert.evidence["since_ms"] for alert in partition.alerts} == {START_MS + 10 * PANE_MS}
    assert resolved.evidence["observed"] == 720


def test_a_cap_of_nothing_is_broken_by_the_first() -> None:
    partition = watched(per_minute=0, per_day=0)
    partition.send(Row(id=0))
    partition.pass_to(MINUTE_MS)
    assert [(a.rule, a.evidence["factor"]) for a in partition.told()] == [("cap-minute", 1.0), ("cap-day", 1.0)]


def test_ports_without_a_cap_may_send_what_they_like() -> None:
    partition = watched(per_minute=10, per_day=10)
    partition.send(*panes(9, port=OTHER, recipients=10**6, segments=255), *panes(9, port="10655000", recipients=10**6))
    partition.pass_to(HOUR_MS)
    assert partition.alerts == []


# --- the day


def test_a_day_is_told_once_and_until_midnight() -> None:
    partition = watched(per_day=1_000)
    for hour in range(16):
        partition.send(Row(id=0, at_ms=hour * HOUR_MS, recipients=300, extension="07", account="a", text=None))
    partition.pass_to(MIDNIGHT_MS + HOUR_MS)
    assert said(partition) == [
        ("cap-day", "open", Severity.WARNING, 3 * HOUR_MS),
        ("cap-day", "updated", Severity.CRITICAL, 6 * HOUR_MS),
        ("cap-day", "resolved", Severity.CRITICAL, 14 * HOUR_MS),
    ]
    opened, _, resolved = partition.alerts
    assert opened.evidence == {
        "observed": 1_200,
        "cap": 1_000,
        "factor": 1.2,
        "since_ms": START_MS + 3 * HOUR_MS,
        "day": 1_200,
        "projected_day": 5_994,  # 1,200 in three hours and 10 s, of 15 hours
        "counted_since_ms": START_MS,
        "top_full_ports": [{"extension": "07", "segments": 1_200}],
        "top_accounts": [{"account": "a", "segments": 1_200}],
    }
    assert resolved.evidence["observed"] == 4_500
    assert (opened.lessee_id, opened.detector) == ("E0", "volume")
    assert opened.summary.en == (
        "carried 1,200 segments today, contracted are 1,000 (1.20 times), above it since 12:00; at the pace of today "
        "5,994 by midnight"
    )
    assert opened.summary.zh == (
        "今日已发1,200条（计费条数），合同上限1,000条（1.20倍），自12:00起超限；按今日速度全天约5,994条"
    )


def test_a_silent_partition_does_not_end_the_day_early() -> None:
    partition = watched(per_day=100)
    partition.send(Row(id=0, recipients=150))
    partition.pass_to(13 * HOUR_MS)
    partition.send(Row(id=0, at_ms=14 * HOUR_MS))
    partition.pass_to(MIDNIGHT_MS - 1)
    assert [alert.state for alert in partition.alerts] == ["open"]
    partition.pass_to(MIDNIGHT_MS)
    assert [alert.state for alert in partition.alerts] == ["open", "resolved"]


def test_the_day_turns_in_shanghai_and_the_last_pane_belongs_to_it() -> None:
    """The pane of 23:59:50 is closed after midnight."""
    partition = watched(per_day=100)
    partition.send(Row(id=0, at_ms=MIDNIGHT_MS - 2, recipients=60), Row(id=0, at_ms=MIDNIGHT_MS - 1, recipients=60))
    partition.send(Row(id=0, at_ms=MIDNIGHT_MS, recipients=60))
    partition.pass_to(MIDNIGHT_MS + HOUR_MS)
    assert [(a.state, a.evidence["observed"]) for a in partition.alerts] == [("open", 120), ("resolved", 120)]
    partition.send(Row(id=0, at_ms=MIDNIGHT_MS + 2 * HOUR_MS, recipients=60))
    partition.pass_to(MIDNIGHT_MS + 3 * HOUR_MS)
    assert len(partition.told()) == 2
    assert partition.told()[1].evidence["counted_since_ms"] == START_MS + MIDNIGHT_MS
    assert len({alert.alert_id for alert in partition.told()}) == 2


def test_a_day_inherits_nothing_and_is_counted_from_midnight_whenever_its_first_submit_comes() -> None:
    partition = watched(per_day=100)
    partition.send(Row(id=0, recipients=90, extension="01"))
    partition.send(Row(id=0, at_ms=MIDNIGHT_MS + 3 * HOUR_MS, recipients=101, extension="02"))
    partition.pass_to(2 * DAY_MS)
    (alert,) = partition.told()
    assert alert.evidence["counted_since_ms"] == START_MS + MIDNIGHT_MS
    assert alert.evidence["top_full_ports"] == [{"extension": "02", "segments": 101}]


def test_what_was_not_watched_is_not_counted_and_that_is_told() -> None:
    partition = watched(per_day=100)
    partition.send(Row(id=0, at_ms=5 * HOUR_MS, recipients=200))
    partition.pass_to(6 * HOUR_MS)
    assert partition.told()[0].evidence["counted_since_ms"] == START_MS + 5 * HOUR_MS


@pytest.mark.parametrize("gap_ms", [PANE_MS, HOUR_MS, 12 * HOUR_MS])
def test_a_gap_does_not_lose_what_came_before(gap_ms: int) -> None:
    partition = watched(per_day=100)
    partition.send(Row(id=0, recipients=60))
    partition.send(Row(id=0, at_ms=gap_ms, recipients=60))
    partition.pass_to(MIDNIGHT_MS)
    assert [a.evidence["observed"] for a in partition.told()] == [120]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 2 * DAY_MS // PANE_MS), st.integers(1, 40)), min_size=1, max_size=40),
    st.lists(st.integers(0, 40), max_size=6),
)
def test_the_sums_are_those_of_the_days_whatever_is_restarted(sends: list[tuple[int, int]], stops: list[int]) -> None:
    """Each day that has more than the cap is told once, with the sum of that day when it came to an end."""
    partition = watched(per_day=100)
    for n, (pane, recipients) in enumerate(sorted(sends)):
        if n in stops:
            partition.restart()
        partition.send(Row(id=0, at_ms=pane * PANE_MS, recipients=recipients))
    partition.pass_to(4 * DAY_MS)
    days: dict[int, int] = {}
    for pane, recipients in sends:
        day = (pane * PANE_MS - MIDNIGHT_MS) // DAY_MS
        days[day] = days.get(day, 0) + recipients
    sums = [total for _, total in sorted(days.items()) if total > 100]
    assert [a.evidence["observed"] for a in partition.told(("resolved",))] == sums
    assert len(partition.told()) == len(sums)


# --- caps that change


def test_a_cap_that_comes_down_is_judged_from_then_on_with_the_whole_day() -> None:
    partition = watched()
    partition.send(*panes(6, recipients=100))
    partition.pass_to(HOUR_MS)
    partition.registry = leased("2", per_day=500)
    partition.pass_to(2 * HOUR_MS)
    assert partition.alerts == []
    partition.send(Row(id=0, at_ms=3 * HOUR_MS))
    partition.pass_to(4 * HOUR_MS)
    (alert,) = partition.told()
    assert (alert.evidence["observed"], alert.evidence["since_ms"]) == (601, START_MS + 3 * HOUR_MS)


def test_a_cap_that_is_raised_is_not_broken_any_more() -> None:
    partition = watched(per_day=100)
    partition.send(*panes(2, recipients=100))
    partition.pass_to(HOUR_MS)
    partition.registry = leased("2", per_day=10_000)
    partition.send(Row(id=0, at_ms=2 * HOUR_MS, recipients=1_000))
    partition.pass_to(MIDNIGHT_MS)
    assert [(a.state, a.evidence["observed"]) for a in partition.alerts] == [("open", 200), ("resolved", 200)]


def test_since_when_is_told_of_the_cap_in_force() -> None:
    partition = watched(per_day=100)
    for hour, cap in enumerate((100, 10_000, 50)):
        partition.registry = leased(str(hour), per_day=cap)
        partition.send(Row(id=0, at_ms=hour * HOUR_MS, recipients=200))
        partition.pass_to(hour * HOUR_MS + MINUTE_MS)
    partition.pass_to(MIDNIGHT_MS)
    assert [(a.state, a.evidence["since_ms"] - START_MS) for a in partition.alerts] == [
        ("open", 0),
        ("resolved", 2 * HOUR_MS),
    ]


def test_a_lease_with_dates_changes_by_itself() -> None:
    turn_ms = START_MS + HOUR_MS
    ports = (
        PortLease(access_port=PORT, caps=Caps(per_minute=1_000), effective_to=turn_ms),
        PortLease(access_port=PORT, caps=Caps(per_minute=10), effective_from=turn_ms),
    )
    partition = Partition(Registry(ports=ports, version="1"), (CapsDetector(),))
    partition.send(Row(id=0, at_ms=HOUR_MS - 1, recipients=500), Row(id=0, at_ms=HOUR_MS + MINUTE_MS, recipients=11))
    partition.pass_to(2 * HOUR_MS)
    assert [(a.evidence["observed"], a.evidence["cap"]) for a in partition.told()] == [(11, 10)]


# --- who carries it


def test_the_five_largest_full_ports_and_accounts_are_named() -> None:
    partition = watched(per_day=100)
    partition.send(
        *(Row(id=0, recipients=10 + n, extension=f"0{n}", account=f"a{n % 2}", text=f"{n}") for n in range(7)),
        Row(id=0, at_ms=HOUR_MS, recipients=50, extension="03"),
    )
    partition.pass_to(2 * HOUR_MS)
    (alert,) = partition.told()
    assert alert.evidence["observed"] == 141
    assert alert.evidence["top_full_ports"] == [
        {"extension": "03", "segments": 63},
        {"extension": "06", "segments": 16},
        {"extension": "05", "segments": 15},
        {"extension": "04", "segments": 14},
        {"extension": "02", "segments": 12},
    ]
    assert alert.evidence["top_accounts"] == [
        {"account": "a0", "segments": 52},
        {"account": None, "segments": 50},
        {"account": "a1", "segments": 39},
    ]


def test_a_port_is_not_charged_for_another() -> None:
    partition = watched(per_minute=100, per_day=100)
    partition.send(*panes(6, port=OTHER, recipients=1_000), *panes(1, 6, recipients=99))
    partition.pass_to(HOUR_MS)
    assert partition.alerts == []
