"""More than a worker can take, nearly all of it in one partition: memory, alerts and other partitions stay in order."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from streams import topics
from streams.kafka import started_producer
from streams.learn import learn_files
from streams.registry import load_folder
from streams.settings import Settings
from streams.state_file import partition_of
from tests.running import all_of, committed, exposed, records, until, until_committed, worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TICK_MS = 300_000
HISTORY_DAYS = 8
HOT_PER_S, COLD_PER_S = 150, 5  # submits a second and port, of event time
HOT_S, COLD_S = 1_800, 1_200
PORTS = 5  # of each partition
SPIKE_S, SPIKE_FACTOR = 60, 12
COLD_SPEED = 320.0  # their spikes come while the backlog is still there, on a fast machine too
CEILING_BYTES = 200 << 20
"""Of what is in flight (114 MB measured); a worker that took the whole backlog in would need twice that."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Steady submits of the ports of one partition, the first of which sends more for a minute."""

    partition: int
    ports: tuple[str, ...]
    per_s: int
    spike_at_s: int

    def second(self, start_ms: int, second: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of every submit of that second."""
        for number, port in enumerate(self.ports):
            is_spike = not number and 0 <= second - self.spike_at_s < SPIKE_S
            count = self.per_s * (SPIKE_FACTOR if is_spike else 1)
            for n in range(count):
                at_ms = start_ms + second * 1_000 + n * 1_000 // count
                value = b'{"event_id":"%s-%d-%d","event_time_ms":%d,"access_port":"%s","recipients":["13800138000"]}'
                yield port.encode(), value % (port.encode(), second, n, at_ms, port.encode())


def streams_of(partitions: int) -> list[Stream]:
    ports: dict[int, list[str]] = {n: [] for n in range(partitions)}
    for port in (f"1069{n:04d}" for n in range(1_000)):
        mine = ports[partition_of(port, partitions)]
        if len(mine) < PORTS:
            mine.append(port)
    hot, *cold = (tuple(found) for found in ports.values())
    return [Stream(0, hot, HOT_PER_S, HOT_S - 300)] + [
        Stream(n, found, COLD_PER_S, 320) for n, found in enumerate(cold, start=1)
    ]


@pytest.fixture
def start_ms() -> int:
    """The backlog is two hours old."""
    return (time.time_ns() // 1_000_000 - 2 * 3_600_000) // TICK_MS * TICK_MS


@pytest.fixture
def known(settings: Settings, start_ms: int, tmp_path: Path) -> Settings:
    """With a registry of these ports and a history that says what is usual for them."""
    rng, folder = np.random.default_rng(3), tmp_path / "registry"
    folder.mkdir()
    streams = streams_of(settings.partitions)
    leases = [
        {
            "access_port": port,
            "carriers": ["mobile"],
            "lessee_id": "91000000000000019G",
            "lessee_name": "海",
            "purposes": ["code"],
            "customer_type": "enterprise",
            "state": "online",
        }
        for stream in streams
        for port in stream.ports
    ]
    (folder / "ports.jsonl").write_text("".join(json.dumps(lease) + "\n" for lease in leases))
    with (tmp_path / "history.jsonl").open("w") as file:
        for at_ms in range(start_ms - HISTORY_DAYS * 86_400_000, start_ms, TICK_MS):
            for stream in streams:
                counts = rng.poisson(stream.per_s * TICK_MS // 1_000, len(stream.ports)).tolist()
                for port, count in zip(stream.ports, counts, strict=True):
                    slice_ = {"access_port": port, "start_ms": at_ms, "duration_ms": TICK_MS, "submits": count}
                    file.write(json.dumps(slice_) + "\n")
    learn_files([tmp_path / "history.jsonl"], load_folder(folder), tmp_path / "state")
    return settings.model_copy(update={"registry_dir": folder, "state_in": tmp_path / "state", "emit_panes": False})


@dataclass(slots=True)
class Sent:
    """How many submits, and when (wall clock) those of each second of event time left."""

    submits: int = 0
    at_s: dict[int, float] = field(default_factory=dict)


async def send(settings: Settings, stream: Stream, start_ms: int, seconds: range, speed: float | None = None) -> Sent:
    """Send these seconds of a stream: at once, or so many times as fast as they passed."""
    name, sent = settings.topic_prefix + topics.SUBMIT.name, Sent()
    producer = await started_producer(settings, max_batch_size=1 << 19, compression_type="lz4")
    began_s, batch, waiting = time.monotonic(), producer.create_batch(), []

    async def hand_over() -> None:
        nonlocal batch
        waiting.append(await producer.send_batch(batch, name, partition=stream.partition))
        batch = producer.create_batch()

    try:
        for second in seconds:
            if speed:
                await asyncio.sleep(began_s + (second - seconds.start) / speed - time.monotonic())
            for key, value in stream.second(start_ms, second):
                if batch.append(key=key, value=value, timestamp=time.time_ns() // 1_000_000) is None:
                    await hand_over()
                    batch.append(key=key, value=value, timestamp=time.time_ns() // 1_000_000)
                sent.submits += 1
            sent.at_s[second] = time.time()
            if speed:
                await hand_over()
        if batch.record_count():
            await hand_over()
        await asyncio.gather(*waiting)
    finally:
        await producer.stop()
    return sent


async def test_a_backlog_in_one_partition_is_worked_off_in_order(
    known: Settings, start_ms: int, tmp_path: Path
) -> None:
    await topics.create(known)
    hot, *cold = streams_of(known.partitions)
    backlog = (await send(known, hot, start_ms, range(HOT_S))).submits
    log, lags = tmp_path / "worker.log", []
    with worker(known, log) as process:
        memory = psutil.Process(process.pid).memory_info
        await until(lambda: "are ours" in log.read_text(), patience_s=60)
        began_s, resident = time.time(), [memory().rss]
        paced = [asyncio.create_task(send(known, one, start_ms, range(COLD_S), COLD_SPEED)) for one in cold]
        while (await committed(known)).get(hot.partition) != backlog:
            resident.append(memory().rss)
            lags.append((await asyncio.to_thread(exposed, log))['portwatch_consumer_lag_records{partition="0"}'])
            assert process.poll() is None, log.read_text()
        caught_up_s = time.time()
        sent = dict(zip([one.ports[0] for one in cold], await asyncio.gather(*paced), strict=True))
        total = backlog + sum(one.submits for one in sent.values())
        await until_committed(known, partial(all_of, total))
        await asyncio.sleep(1.5)  # gauges are refreshed once a second
        samples = await asyncio.to_thread(exposed, log)
        process.terminate()
        assert process.wait(5) == 0, log.read_text()

    assert max(resident) - resident[0] < CEILING_BYTES
    assert max(lags) > backlog / 4
    for partition in range(known.partitions):
        assert samples[f'portwatch_consumer_lag_records{{partition="{partition}"}}'] == 0
        assert samples[f'portwatch_balance_difference{{partition="{partition}"}}'] == 0
    assert samples['portwatch_submits_total{outcome="counted"}'] == total

    told = [json.loads(row.value) for row in await records(known, topics.ALERTS)]
    opened = {alert["access_port"]: alert for alert in told if alert["state"] == "open"}
    assert set(opened) == {hot.ports[0], *sent}  # what came all at once is no spike, what came all at one time is
    for port, one in sent.items():
        due_s = one.at_s[(opened[port]["detected_event_ms"] - start_ms) // 1_000]
        told_s = opened[port]["detected_ms"] / 1_000
        assert told_s < caught_up_s  # while others waited
        assert told_s - due_s < (caught_up_s - began_s) / 2
    # By event time all three were quick; by the wall clock each told of a moment over an hour ago.
    assert samples['portwatch_detection_seconds_bucket{le="60.0"}'] == 3
    assert samples['portwatch_detection_wall_seconds_bucket{le="3600.0"}'] == 0
    assert samples["portwatch_detection_wall_seconds_count"] == 3
