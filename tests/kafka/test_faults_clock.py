"""The wall clock of a worker jumps: it dates what it tells, and decides nothing."""

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from streams import topics
from streams.kafka import producer_client
from streams.settings import Settings
from tests.oracle import heard, uninterrupted
from tests.running import SPEED, all_of, feeding, make, more_than, serving, status, until, until_committed

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TWO_HOURS_S = 7_200.0


class Jumping:
    """Stands for `time.time`."""

    def __init__(self) -> None:
        self._real, self.ahead_s = time.time, 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Jumping:
    jumping = Jumping()
    monkeypatch.setattr(time, "time", jumping)
    return jumping


@pytest.mark.parametrize("jump_s", [TWO_HOURS_S, -TWO_HOURS_S], ids=["ahead", "back"])
async def test_a_clock_that_jumps_moves_nothing_else(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch, clock: Jumping, jump_s: float
) -> None:
    await make(settings, morning)
    sending = feeding(settings, morning, speed=4 * SPEED)
    async with serving(settings) as (it, url):
        await until_committed(settings, partial(more_than, 15_000))
        clock.ahead_s = jump_s
        for _ in range(20):
            assert await status(f"{url}/healthz") == (200, "ok\n")
            await asyncio.sleep(0.1)
        sent = await sending
        await until_committed(settings, partial(all_of, sent.sent))
        said, _ = await heard(settings)
        assert said == await uninterrupted(settings, morning / "registry")

        monkeypatch.setattr("streams.worker.worker.IDLE_GRACE_S", 0.0)
        before = {partition: view.clock_ms for partition, view in it.views.items()}
        idle_since_s = time.monotonic()
        clock.ahead_s = -jump_s
        await until(lambda: all(view.clock_ms > before[p] for p, view in it.views.items()))
        idle_ms = (time.monotonic() - idle_since_s) * 1_000
        assert all(view.clock_ms - before[p] < idle_ms + 600_000 for p, view in it.views.items())
        assert await status(f"{url}/healthz") == (200, "ok\n")
        assert all(time.monotonic() - view.committed_at_s < 60 for view in it.views.values())


async def test_a_broker_takes_what_a_clock_far_ahead_has_dated(settings: Settings) -> None:
    """One since 4.0 refuses it where the writer's time counts (message.timestamp.after.max.ms)."""
    await topics.create(settings)
    ours = [topic for topic in topics.ALL if topic.is_ours]
    far_ahead_ms = int((time.time() + TWO_HOURS_S) * 1_000)
    async with producer_client(settings) as producer:
        for topic in ours:
            await producer.send_and_wait(
                settings.topic_prefix + topic.name, b"{}", key=b"k", timestamp_ms=far_ahead_ms, partition=0
            )
    assert [topic.name for topic in topics.ALL if topic not in ours] == ["sms.submit.v1"]
