"""The transport against a real Apache Kafka: every record once, at its offset, whatever the batches look like."""

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import RecordMetadata, TopicPartition
from faust.types import TP

from streams.embedded import EmbeddedBroker, free_port
from streams.kafka import admin_client
from streams.settings import Settings
from streams.worker.offsets import Offsets
from streams.worker.transport import BatchApp, PartitionBatch, make_app, run
from tests.conftest import Broker, require
from tests.servers import ApacheKafka

pytestmark = pytest.mark.kafka

PARTITIONS = 4
PATIENCE_S = 30.0
CREATE_TIME = 0
BEGIN_MS = time.time_ns() // 1_000_000 - 60_000

Row = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A record as the broker took it."""

    key: bytes | None
    value: bytes | None
    offset: int
    time_ms: int


@dataclass(slots=True)
class Inbox:
    """One app of ours, running, and what its agent was given."""

    app: BatchApp
    offsets: Offsets
    batches: dict[TP, list[PartitionBatch]] = field(default_factory=lambda: defaultdict(list))

    def records(self, partition: TP) -> list[Sent]:
        return [
            Sent(key=key, value=value, offset=int(offset), time_ms=int(time_ms))
            for batch in self.batches[partition]
            for key, value, offset, time_ms in zip(
                batch.keys, batch.values, batch.offsets, batch.log_time_ms, strict=True
            )
        ]

    def next_offset(self, partition: TP) -> int:
        return self.batches[partition][-1].end if self.batches[partition] else 0

    async def read_to(self, ends: dict[TP, int]) -> None:
        await until(lambda: all(self.next_offset(partition) >= end for partition, end in ends.items()))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - conditions of several objects, some of them not ours
            await asyncio.sleep(0.01)


def settings_for(broker: Broker, group: str) -> Settings:
    return Settings(bootstrap_servers=(broker.bootstrap,), group_id=group)


@asynccontextmanager
async def inbox(settings: Settings, topic: str) -> AsyncIterator[Inbox]:
    """Run an app on this loop for the time of the block."""
    app = make_app(settings, [topic])
    box = Inbox(app, Offsets(app))

    @app.agent(app.batches(topic))
    async def keep(stream: AsyncIterator[PartitionBatch]) -> None:
        async for batch in stream:
            box.batches[TP(batch.topic, batch.partition)].append(batch)

    async with running(app):
        yield box


@asynccontextmanager
async def running(app: BatchApp) -> AsyncIterator[None]:
    """Give way to the block when the app owns its partitions; stop it afterwards."""
    ready, stop = asyncio.Event(), asyncio.Event()

    async def set_ready() -> None:
        ready.set()

    app.on_startup_finished = set_ready
    life = asyncio.create_task(run(app, stop))
    try:
        await until(lambda: ready.is_set() or life.done())
        yield
    finally:
        stop.set()
        await life


async def make_topic(broker: Broker, name: str, partitions: int = PARTITIONS, **configs: str) -> list[TP]:
    async with admin_client(settings_for(broker, "none")) as admin:
        dotted = {key.replace("_", "."): value for key, value in configs.items()}
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dotted)])
    return [TP(name, number) for number in range(partitions)]


async def produce(
    broker: Broker,
    partition: TP,
    rows: Sequence[Row],
    **options: Any,
) -> list[Sent]:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5, **options) as producer:
        return await send(producer, partition, rows)


async def send(producer: AIOKafkaProducer, partition: TP, rows: Sequence[Row]) -> list[Sent]:
    futures = [
        await producer.send(partition.topic, value, key, partition=partition.partition, timestamp_ms=time_ms)
        for (key, value), time_ms in zip(rows, times_ms(len(rows)), strict=True)
    ]
    taken: list[RecordMetadata] = await asyncio.gather(*futures)
    return [
        Sent(
            key=key,
            value=value,
            offset=meta.offset,
            time_ms=time_ms if meta.timestamp_type == CREATE_TIME else meta.timestamp,
        )
        for (key, value), time_ms, meta in zip(rows, times_ms(len(rows)), taken, strict=True)
    ]


def times_ms(count: int) -> list[int]:
    """Timestamps in no order, some before that of the batch's first record."""
    return [BEGIN_MS + number * 7919 % 1000 for number in range(count)]


def rows(count: int, mark: str = "") -> list[Row]:
    """Distinct values; a key or a value may be absent, not both."""
    return [
        (
            None if number % 14 == 3 else b"1069%04d" % (number % 50),
            None if number % 14 == 5 else f'{{"event_id":"{mark}{number}","text":"{"x" * (number % 300)}"}}'.encode(),
        )
        for number in range(count)
    ]


def assert_chained(batches: Sequence[PartitionBatch], start: int, end: int) -> None:
    """The batches cover [start, end) without gap or overlap, and each holds offsets of its own range only."""
    edges = [start, *(batch.end for batch in batches)]
    assert [batch.start for batch in batches] == edges[:-1]
    assert edges[-1] == end
    for batch in batches:
        assert all(batch.start <= offset < batch.end for offset in batch.offsets)
        assert batch.size_bytes == sum(len(value) for value in batch.values if value is not None)


@pytest.fixture
def topic(topic_prefix: str) -> str:
    return f"{topic_prefix}in"


@pytest.fixture
def settings(kafka: ApacheKafka, topic_prefix: str) -> Settings:
    return settings_for(kafka, f"{topic_prefix}group")


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[ApacheKafka]:
    """One that compacts at once, and whose files we may break."""
    require(ApacheKafka.missing())
    with ApacheKafka({"log.cleaner.backoff.ms": "100"}) as server:
        yield server


@pytest.mark.parametrize("compression", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_every_record_arrives_once(
    kafka: ApacheKafka, settings: Settings, topic: str, compression: str | None
) -> None:
    partitions = await make_topic(kafka, topic)
    sent = {
        partition: await produce(kafka, partition, rows(2000, f"{partition.partition}."), compression_type=compression)
        for partition in partitions
    }
    async with inbox(settings, topic) as box:
        await box.read_to(dict.fromkeys(partitions, 2000))
        for partition in partitions:
            assert box.records(partition) == sent[partition]
            assert_chained(box.batches[partition], 0, 2000)


async def test_log_append_time_is_the_brokers(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    [partition] = await make_topic(kafka, topic, 1, message_timestamp_type="LogAppendTime")
    sent = await produce(kafka, partition, rows(50)) + await produce(kafka, partition, rows(50))
    async with inbox(settings, topic) as box:
        await box.read_to({partition: 100})
        assert box.records(partition) == sent


async def test_content_types_name_only_what_is_not_json(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    [partition] = await make_topic(kafka, topic, 1)
    said = [
        [],
        [("content-type", b"application/json")],
        [("traceparent", b"00-1"), ("content-type", b"application/x-ndjson")],
        [("content-type", b"application/vnd.apache.arrow.stream")],
        [("traceparent", b"00-1")],
    ]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=100) as producer:
        for headers in said:
            await producer.send(topic, b"{}", partition=0, headers=headers)
    async with inbox(settings, topic) as box:
        await box.read_to({partition: len(said)})
        found = {
            int(batch.offsets[index]): name
            for batch in box.batches[partition]
            for index, name in batch.content_types.items()
        }
        assert found == {2: b"application/x-ndjson", 3: b"application/vnd.apache.arrow.stream"}


async def test_aborted_transactions_are_left_out(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    [partition] = await make_topic(kafka, topic, 1)
    kept: list[Sent] = []
    options = {"bootstrap_servers": kafka.bootstrap, "linger_ms": 5}
    async with (
        AIOKafkaProducer(**options, transactional_id=f"{topic}.a") as one,
        AIOKafkaProducer(**options, transactional_id=f"{topic}.b") as other,
        AIOKafkaProducer(**options) as plain,
    ):
        for turn in range(3):
            await one.begin_transaction()
            await other.begin_transaction()
            await send(one, partition, rows(20, f"aborted{turn}."))
            kept += await send(other, partition, rows(30, f"committed{turn}."))
            kept += await send(plain, partition, rows(10, f"plain{turn}."))
            await send(one, partition, rows(5, f"aborted too{turn}."))
            await one.abort_transaction()
            await other.commit_transaction()
        await one.begin_transaction()
        await send(one, partition, rows(5, "aborted at the end"))
        await one.abort_transaction()
    end = 3 * (20 + 30 + 10 + 5 + 2) + 5 + 1
    async with inbox(settings, topic) as box:
        await box.read_to({partition: end})
        assert box.records(partition) == kept
        assert_chained(box.batches[partition], 0, end)


async def test_compacted_topic_keeps_its_offsets(own_kafka: ApacheKafka, topic: str) -> None:
    [partition] = await make_topic(
        own_kafka, topic, 1, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001"
    )
    numbered = [(b"%d" % (number % 97), b"v%d" % number) for number in range(1000)]
    sent = await produce(own_kafka, partition, numbered)
    # The cleaner leaves the newest segment alone; a segment rolls when a record 100 ms younger arrives.
    async with AIOKafkaProducer(bootstrap_servers=own_kafka.bootstrap) as producer:
        for value in (b"1", b"2"):
            meta = await producer.send_and_wait(topic, value, b"roll", partition=0)
            sent.append(Sent(key=b"roll", value=value, offset=meta.offset, time_ms=meta.timestamp))
            await asyncio.sleep(0.2)
    expected = await until_compacted(own_kafka, partition, len(sent))
    async with inbox(settings_for(own_kafka, topic), topic) as box:
        await box.read_to({partition: len(sent)})
        assert [record.offset for record in box.records(partition)] == expected
        assert set(box.records(partition)) <= set(sent)
        assert_chained(box.batches[partition], 0, len(sent))


async def until_compacted(broker: Broker, partition: TP, end: int) -> list[int]:
    """The offsets that a stock consumer sees once the cleaner was there."""
    async with asyncio.timeout(60), AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        place = TopicPartition(*partition)
        consumer.assign([place])
        while True:
            consumer.seek(place, 0)
            offsets: list[int] = []
            while await consumer.position(place) < end:
                offsets += [row.offset for row in (await consumer.getmany(place, timeout_ms=200)).get(place, [])]
            if len(offsets) < end / 2:
                return offsets
            await asyncio.sleep(0.2)


async def test_a_corrupt_batch_is_handed_on_as_such_and_what_is_behind_it_too(
    own_kafka: ApacheKafka, topic: str
) -> None:
    [partition] = await make_topic(own_kafka, topic, 1)
    for mark in ("before", "broken", "after"):
        await produce(own_kafka, partition, [(b"k", b"%s%d" % (mark.encode(), number)) for number in range(10)])
    own_kafka.stop()
    flip_byte(own_kafka.folder / "data" / f"{topic}-0" / f"{0:020d}.log", b"broken3")
    own_kafka.start()
    async with inbox(settings_for(own_kafka, topic), topic) as box:
        await box.read_to({partition: 30})
        assert_chained(box.batches[partition], 0, 30)
        values = [record.value for record in box.records(partition)]
        assert values == [b"%s%d" % (mark, n) for mark in (b"before", b"after") for n in range(10)]
        told = [
            (batch.start, batch.end, len(batch), batch.corrupt) for batch in box.batches[partition] if batch.corrupt
        ]
        assert told == [(10, 20, 0, "wrong CRC")]


def flip_byte(log: Path, where: bytes) -> None:
    content = bytearray(log.read_bytes())
    content[content.index(where)] ^= 1
    log.write_bytes(content)


async def test_seek_goes_to_the_very_offset(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    [partition] = await make_topic(kafka, topic, 1)
    sent = await produce(kafka, partition, rows(500), max_batch_size=2**20)
    async with inbox(settings, topic) as box:
        await box.read_to({partition: 500})
        for offset in (123, 0, 499):
            box.batches.clear()
            await box.offsets.seek(partition, offset)
            await box.read_to({partition: 500})
            assert box.records(partition) == sent[offset:]
            assert_chained(box.batches[partition], offset, 500)


async def test_paused_partition_waits_and_the_others_go_on(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    held, free = await make_topic(kafka, topic, 2)
    async with inbox(settings, topic) as box:
        box.app.consumer.pause([held])
        sent = await produce(kafka, held, rows(100))
        await produce(kafka, free, rows(100))
        await box.read_to({free: 100})
        await asyncio.sleep(0.3)
        assert box.batches[held] == []
        assert await box.offsets.position(held) == 0
        box.app.consumer.resume([held])
        resumed = time.perf_counter()
        await box.read_to({held: 100})
        assert time.perf_counter() - resumed < 0.5
        assert box.records(held) == sent


async def test_slow_agent_bounds_what_is_in_flight(
    kafka: ApacheKafka, settings: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.worker.transport.FETCH_BYTES", 2**20)
    partitions = await make_topic(kafka, topic)
    for partition in partitions:
        for _ in range(6):
            await produce(kafka, partition, [(b"k", b"x" * 250_000)] * 4, max_request_size=2**21, max_batch_size=2**20)
    app = make_app(settings, [topic])
    go_on, held = asyncio.Event(), []

    @app.agent(app.batches(topic))
    async def stall(stream: AsyncIterator[PartitionBatch]) -> None:
        async for batch in stream:
            held.append(batch)
            await go_on.wait()

    async with running(app):
        await until(lambda: bool(held))
        await asyncio.sleep(1.0)
        offsets = Offsets(app)
        drained = sum([await offsets.position(partition) for partition in partitions])
        # One event with the agent, four in its queue, and one poll: an event per partition, here one Kafka batch each.
        assert len(held) == 1
        assert drained <= 4 * (1 + 4 + PARTITIONS)
        go_on.set()
        await until(lambda: sum(len(batch) for batch in held) == PARTITIONS * 24)


async def test_nothing_is_lost_or_doubled_when_workers_join_and_leave(
    kafka: ApacheKafka, settings: Settings, topic: str
) -> None:
    partitions = await make_topic(kafka, topic)
    seen: dict[TP, list[int]] = defaultdict(list)
    feeding = asyncio.create_task(feed(kafka, partitions))
    async with committing_worker(settings, topic, seen):
        await until(lambda: all(len(seen[partition]) > 50 for partition in partitions))
        async with committing_worker(settings, topic, seen) as second:
            await until(lambda: len(second.consumer.assignment()) == PARTITIONS / 2 and not second.rebalancing)
            reached = {partition: len(seen[partition]) for partition in partitions}
            await until(lambda: all(len(seen[partition]) > reached[partition] + 50 for partition in partitions))
        feeding.cancel()
        ends = await feeding
        await until(lambda: all(len(seen[partition]) >= ends[partition] for partition in partitions))
    assert seen == {partition: list(range(end)) for partition, end in ends.items()}


async def feed(broker: Broker, partitions: Sequence[TP]) -> dict[TP, int]:
    """A few records to every partition, again and again, until cancelled; returns how many each has."""
    ends = dict.fromkeys(partitions, 0)
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        try:
            while True:
                for partition in partitions:
                    await asyncio.shield(asyncio.ensure_future(send(producer, partition, rows(5))))
                    ends[partition] += 5
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            pass
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        places = [TopicPartition(*partition) for partition in partitions]
        return {TP(*place): end for place, end in (await consumer.end_offsets(places)).items()}


@asynccontextmanager
async def committing_worker(settings: Settings, topic: str, seen: dict[TP, list[int]]) -> AsyncIterator[BatchApp]:
    """The least a worker must do: begin at its commit, commit when it gives partitions up."""
    app = make_app(settings, [topic])
    offsets = Offsets(app)
    reached: dict[TP, int] = {}

    @app.agent(app.batches(topic))
    async def count(stream: AsyncIterator[PartitionBatch]) -> None:
        async for batch in stream:
            partition = TP(batch.topic, batch.partition)
            assert batch.start == reached[partition]
            reached[partition] = batch.end
            seen[partition] += batch.offsets.tolist()

    @app.on_rebalance_complete.connect
    async def begin(*_: object, **__: object) -> None:
        mine = app.consumer.assignment()
        committed = await offsets.committed(mine)
        reached.clear()
        for partition in mine:
            reached[partition] = committed.get(partition, (0, ""))[0]
            await offsets.seek(partition, reached[partition])

    @app.on_partitions_revoked.connect
    @app.on_before_shutdown.connect
    async def give_up(*_: object, **__: object) -> None:
        if reached:
            assert await offsets.commit({partition: (offset, "") for partition, offset in reached.items()})

    async with running(app):
        yield app


async def test_commit_carries_metadata_and_strangers_are_refused(
    kafka: ApacheKafka, settings: Settings, topic: str
) -> None:
    one, two = await make_topic(kafka, topic, 2)
    await produce(kafka, one, rows(30))
    pointer = '{"checkpoint":[17,23]} 签名 ' + "x" * 3000
    async with inbox(settings, topic) as box:
        await box.read_to({one: 30})
        assert await box.offsets.committed([one, two]) == {}
        assert await box.offsets.commit({one: (30, pointer), two: (0, "")})
        assert await box.offsets.committed([one, two]) == {one: (30, pointer), two: (0, "")}
        assert await box.offsets.position(one) == 30
        assert box.offsets.end_offset(one) == 30
        assert await box.offsets.beginning_offsets([one, two]) == {one: 0, two: 0}
        assert not await box.offsets.commit({one: (31, ""), TP("elsewhere", 0): (1, "")})
        # What a frozen process believes when it wakes up: the broker knows another generation.
        box.app.consumer._thread._ensure_consumer()._coordinator.generation -= 1
        assert not await box.offsets.commit({one: (31, "zombie")})
        assert await box.offsets.committed([one]) == {one: (30, pointer)}


async def test_embedded_broker_serves_all_but_the_metadata(topic: str) -> None:
    """A checkpoint's pointer must be found another way there: the broker forgets the metadata of a commit."""
    with EmbeddedBroker() as broker:
        one, two = await make_topic(broker, topic, 2)
        sent = await produce(broker, one, rows(300), compression_type="zstd")
        async with inbox(settings_for(broker, topic), topic) as box:
            await box.read_to({one: 300})
            assert box.records(one) == sent
            assert_chained(box.batches[one], 0, 300)
            assert box.offsets.end_offset(one) == 300
            assert await box.offsets.commit({one: (300, "pointer")})
            assert await box.offsets.committed([one, two]) == {one: (300, "")}
            box.app.consumer._thread._ensure_consumer()._coordinator.generation -= 1
            assert not await box.offsets.commit({one: (301, "zombie")})


async def test_long_steps_keep_the_membership(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    """The heartbeat shares the loop with the agent: steps of a second must not cost the partitions."""
    [partition] = await make_topic(kafka, topic, 1)
    app = make_app(settings, [topic])
    steps: list[int] = []

    @app.agent(app.batches(topic))
    async def compute(stream: AsyncIterator[PartitionBatch]) -> None:
        async for batch in stream:
            time.sleep(1.0)  # noqa: ASYNC251 - a computation, as the loop sees it
            steps.append(batch.start)

    async with running(app), AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        rebalances = app.rebalancing_count
        while len(steps) < 9:
            await producer.send_and_wait(topic, b"{}", partition=partition.partition)
        assert app.rebalancing_count == rebalances
        assert await Offsets(app).commit({partition: (1, "")})


async def test_run_leaves_nothing_behind(
    kafka: ApacheKafka,
    settings: Settings,
    topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    partitions = await make_topic(kafka, topic)
    async with inbox(settings, topic):
        pass  # the broker's first group makes it create its offsets topic, which the client grumbles about
    caplog.clear()
    tasks, threads = asyncio.all_tasks(), threading.active_count()
    async with inbox(settings, topic) as box:
        await produce(kafka, partitions[0], rows(10))
        await box.read_to({partitions[0]: 10})
        assert threading.active_count() == threads
        stopping = time.perf_counter()
    assert time.perf_counter() - stopping < 5.0
    assert asyncio.all_tasks() == tasks
    assert threading.active_count() == threads
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - an empty folder
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.5, 1.05])
async def test_stop_during_start(kafka: ApacheKafka, settings: Settings, topic: str, delay_s: float) -> None:
    await make_topic(kafka, topic)
    app = make_app(settings, [topic])

    @app.agent(app.batches(topic))
    async def drop(stream: AsyncIterator[PartitionBatch]) -> None:
        async for _ in stream:
            pass

    tasks = asyncio.all_tasks()
    stop = asyncio.Event()
    life = asyncio.create_task(run(app, stop))
    await asyncio.sleep(delay_s)
    stop.set()
    async with asyncio.timeout(5.0):
        await life
    assert asyncio.all_tasks() == tasks


async def test_failing_agent_ends_the_run(kafka: ApacheKafka, settings: Settings, topic: str) -> None:
    [partition] = await make_topic(kafka, topic, 1)
    await produce(kafka, partition, rows(10))
    app = make_app(settings, [topic])

    @app.agent(app.batches(topic))
    async def fail(stream: AsyncIterator[PartitionBatch]) -> None:
        async for batch in stream:
            raise LookupError(batch.start)

    tasks = asyncio.all_tasks()
    async with asyncio.timeout(10.0):
        with pytest.raises(LookupError):
            await run(app, asyncio.Event())
    assert asyncio.all_tasks() == tasks


async def test_absent_kafka_ends_the_run(topic: str) -> None:
    settings = Settings(bootstrap_servers=(f"127.0.0.1:{free_port()}",), group_id=topic)
    tasks = asyncio.all_tasks()
    async with asyncio.timeout(10.0):
        with pytest.raises(KafkaConnectionError):
            await run(make_app(settings, [topic]), asyncio.Event())
    assert asyncio.all_tasks() == tasks
