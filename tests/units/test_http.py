"""Health means that offsets advance."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest

from streams.worker.http import STALLED_S, Health, stalled
from streams.worker.metrics import PartitionView
from streams.worker.worker import Worker

NOW_S = 1_000.0


def test_a_partition_that_has_not_advanced_for_long_is_stalled() -> None:
    """Where Kafka says that there is nothing to read, the tick counts it as an advance; so no tick, no advance."""
    views = {
        0: PartitionView(next_offset=5, end_offset=9, advanced_at_s=NOW_S - STALLED_S - 1),
        1: PartitionView(next_offset=5, end_offset=9, advanced_at_s=NOW_S - STALLED_S),
        2: PartitionView(next_offset=9, end_offset=9, advanced_at_s=NOW_S - 10 * STALLED_S),
    }
    assert stalled(views, NOW_S) == {0: STALLED_S + 1, 2: 10 * STALLED_S}


@dataclass
class Shown:
    """What of a worker its health is told by."""

    views: dict[int, PartitionView] = field(default_factory=dict)
    is_assigned: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Clock:
    now_s: float = NOW_S

    def time(self) -> float:
        return self.now_s

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ticking = Clock()
    monkeypatch.setattr("streams.worker.http.time", ticking)
    return ticking


def test_one_that_waits_is_well_but_not_ready(clock: Clock) -> None:
    health = Health()
    assert (health.unready(), health.problem()) == ("waiting for Kafka", None)
    clock.now_s += 3_600
    health.waits_for = "the registry: reading"
    assert (health.unready(), health.problem()) == ("waiting for the registry: reading", None)


def test_one_that_gets_no_partitions_is_ill_after_a_while(clock: Clock) -> None:
    health, shown = Health(), Shown()
    health.reads(cast("Worker", shown))
    clock.now_s += STALLED_S
    assert (health.unready(), health.problem()) == ("the group has not shared its partitions yet", None)
    clock.now_s += 1
    assert health.problem() == "no partitions from the group for 31 s"
    shown.is_assigned.set()  # none of its own: it stands by
    for _ in range(3):
        assert (health.unready(), health.problem()) == (None, None)
        clock.now_s += STALLED_S + 1
    shown.is_assigned.clear()
    assert health.problem() is None


def test_one_that_takes_partitions_over_may_take_its_time_with_each(clock: Clock) -> None:
    """Or a restart would meet the large state, which took so long, again and again."""
    health, shown = Health(), Shown()
    health.reads(cast("Worker", shown))
    for partition in range(4):
        clock.now_s += STALLED_S
        shown.views[partition] = PartitionView(advanced_at_s=clock.now_s)
        assert health.problem() is None
    shown.is_assigned.set()
    assert health.problem() is None
    clock.now_s += STALLED_S + 1
    for partition in (0, 1, 3):
        shown.views[partition].advanced_at_s = clock.now_s
    assert health.problem() == "partition 2 stalled for 61 s"
    shown.views[2].advanced_at_s = clock.now_s
    assert health.problem() is None
