"""A judge that finds nothing must be able to find something."""

import asyncio
import json
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest

from streams import topics
from streams.kafka import producer_client
from streams.settings import Settings, load_settings
from tests.running import records, until_committed, worker
from tests.servers import ApacheKafka
from tests.soak.account import VETERAN, Memory, Sample
from tests.soak.judge import Key, Sums, Verdict, judge
from tests.soak.traffic import AHEAD_MS, SLICE_MS, Traffic, write

KEY = Key("10690010", 0, None)
RIGHT = Sums(submits=7, retries=1, recipients=9, segments=9)


@pytest.mark.parametrize(
    ("right", "told", "lost", "double"),
    [
        (RIGHT, {RIGHT}, 0, 0),
        (RIGHT, set(), 8, 0),
        (None, {RIGHT}, 0, 8),
        (RIGHT, {RIGHT._replace(submits=5)}, 2, 0),
        (RIGHT, {RIGHT._replace(submits=10)}, 0, 3),
        (RIGHT, {RIGHT, RIGHT._replace(submits=10)}, 0, 3),
        (RIGHT, {RIGHT, RIGHT._replace(submits=5), RIGHT._replace(retries=2)}, 2, 1),
        (RIGHT, {RIGHT._replace(recipients=8)}, 8, 8),
        (RIGHT, {RIGHT._replace(submits=8, retries=0)}, 8, 8),
    ],
)
def test_a_count_that_is_not_right_is_lost_or_double(
    right: Sums | None, told: set[Sums], lost: int, double: int
) -> None:
    verdict = Verdict()
    verdict.compare(KEY, right, told)
    assert (verdict.lost, verdict.double) == (lost, double)
    assert bool(verdict.examples) == bool(lost or double)


def test_a_dead_letter_that_is_not_right_is_lost_or_double() -> None:
    verdict = Verdict()
    verdict.letters({1, 2, 3}, {3, 4})
    assert (verdict.lost, verdict.double, len(verdict.examples)) == (2, 1, 3)


def test_memory_that_follows_the_partitions_owned_is_no_drift_and_growth_beside_it_is() -> None:
    owned = [2] * 200 + [3] * 100 + [2] * 50 + [3] * 250  # more of them towards the end

    def drift(grown_mb: float) -> float | None:
        samples = [Sample(2.0 * at, 100.0 * n + grown_mb * at / len(owned), n) for at, n in enumerate(owned)]
        return Memory(defaultdict(list, {VETERAN: samples})).drift

    assert drift(0.0) == 0.0
    assert (drift(60.0) or 0.0) > 0.05


def test_memory_of_a_short_run_says_nothing() -> None:
    assert Memory(defaultdict(list, {VETERAN: [Sample(float(at), 100.0, 3) for at in range(300)]})).drift is None


@pytest.mark.kafka
async def test_on_kafka_it_finds_what_is_missing_and_what_is_too_much(
    kafka: ApacheKafka, topic_prefix: str, tmp_path: Path
) -> None:
    from_ms = int(time.time() * 1_000) - 3 * AHEAD_MS  # for a broker takes no record from the future
    to_ms = from_ms + 60_000
    write(tmp_path, 2_000, from_ms)
    settings = load_settings(
        bootstrap_servers=(kafka.bootstrap,),
        topic_prefix=topic_prefix,
        group_id=f"{topic_prefix}workers",
        partitions=2,
        registry_dir=tmp_path / "registry",
        state_in=tmp_path / "state",
        emit_panes=True,
        http_port=0,
    )
    await topics.create(settings)
    traffic = Traffic(1, 2_000, settings.partitions, from_ms)
    sent = await _send(settings, traffic, from_ms, to_ms)
    with worker(settings, tmp_path / "worker.log"):
        await until_committed(settings, partial(_all_of, sent))
    assert await _found(settings, to_ms) == (sent, 0, 0, 0, 0)

    count = next(c for c in [json.loads(row.value) for row in await records(settings, topics.PANES)] if c["submits"])
    alert = json.loads((await records(settings, topics.ALERTS))[0].value)
    async with producer_client(settings) as producer:
        for topic, key, record in (
            (topics.PANES, count["access_port"], count | {"submits": count["submits"] + 3}),
            (topics.ALERTS, alert["alert_id"], alert | {"last_seen_ms": 0}),
        ):
            value = json.dumps(record).encode()
            await producer.send_and_wait(settings.topic_prefix + topic.name, value=value, key=key.encode())
    assert await _found(settings, to_ms) == (sent, 0, 3, 0, 1)

    # Submits that no worker has seen: what is due from them is missing.
    ahead_ms = to_ms + AHEAD_MS + 60_000
    unseen = await _send(settings, traffic, ahead_ms, ahead_ms + 30_000)
    submits, lost, double, missing, extra = await _found(settings, ahead_ms + 30_000)
    assert submits == sent + unseen
    assert lost > 0.95 * unseen
    assert (double, extra) == (3, 1)
    assert missing > 0


def _all_of(sent: int, offsets: dict[int, int]) -> bool:
    return sum(offsets.values()) == sent


async def _send(settings: Settings, traffic: Traffic, from_ms: int, to_ms: int) -> int:
    """All slices, and the farewell."""
    topic = settings.topic_prefix + topics.SUBMIT.name
    async with producer_client(settings) as producer:
        waiting = []
        slices = [(at_ms, traffic.slice(at_ms)) for at_ms in range(from_ms, to_ms, SLICE_MS)]
        for at_ms, arriving in [*slices, (to_ms + AHEAD_MS, traffic.farewell(to_ms))]:
            for number, lines in arriving.items():
                for key, value in lines:
                    waiting.append(
                        await producer.send(topic, value=value, key=key, partition=number, timestamp_ms=at_ms)
                    )
        return len(await asyncio.gather(*waiting))


async def _found(settings: Settings, until_ms: int) -> tuple[int, int, int, int, int]:
    """Submits, lost, double, alerts missing, alerts extra."""
    verdict = await judge(settings, until_ms)
    assert verdict.alerts
    assert not verdict.left_open
    missing, extra = verdict.alerts - verdict.heard_alerts, verdict.heard_alerts - verdict.alerts
    return verdict.submits, verdict.lost, verdict.double, len(missing), len(extra)
