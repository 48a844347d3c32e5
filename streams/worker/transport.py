"""Whole Kafka record batches through Faust: one event is what one poll brought for one partition.

A subclass of Faust's aiokafka transport, consumer and consumer thread. For input topics it reads aiokafka's fetcher one
step below its per-record objects; all other topics keep stock behaviour. It commits nothing: see `offsets`.
"""

# ruff: noqa: SLF001 - tests/kafka/test_transport_contract.py holds the private names used here to the pinned versions

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import faust
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import ConsumerStoppedError, CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP, ConsumerMessage
from mode import Service
from mode.supervisors import CrashingSupervisor
from mode.utils.futures import maybe_async
from numpy.typing import NDArray

from streams.contract import REPLAYED_HEADER
from streams.kafka import end_fetches, ssl_context
from streams.settings import Settings

CONTENT_TYPE = "content-type"
JSON = b"application/json"

# The least a broker allows by default (group.min.session.timeout.ms); a dead worker is replaced about a second later.
SESSION_TIMEOUT_S = 6.0
HEARTBEAT_S = 0.5
FETCH_WAIT_MS = 500
METADATA_MS = 30_000  # a partition that the topic got is read that much later; aiokafka looks every 5 minutes
LEAVE_S = 0.5  # usually milliseconds; who is not heard leaving is missed after SESSION_TIMEOUT_S
# Of one partition: four times aiokafka's own, so that what is fetched lasts while the next answer comes (a seventh more
# records a second).
FETCH_BYTES = 4 * 2**20
# Nothing wakes a waiting poll when a rebalance ends, so it looks again this often meanwhile.
REBALANCE_POLL_S = 0.02
# Memory in flight: what waits for the agent plus one event per partition, each MAX_EVENT_BYTES and one Kafka batch.
QUEUED_EVENTS = 4
MAX_EVENT_RECORDS = 16_384
MAX_EVENT_BYTES = 8 * 2**20
MOST_REPLAYED_DIGITS = 9

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class PartitionBatch:
    """The records of one partition between two fetch positions, in offset order; columns have equal lengths.

    `start` and `end` are its identity: a batch starts where the one before it ended, unless somebody sought. It may be
    empty (aborted transactions, markers, compacted rows) and still moves the position.
    """

    topic: str
    partition: int
    start: int
    end: int
    values: list[bytes | None]
    keys: list[bytes | None]
    offsets: NDArray[np.int64]
    log_time_ms: NDArray[np.int64]
    """Kafka's timestamp: CreateTime or LogAppendTime, as the topic is configured; -1 = none."""
    content_types: dict[int, bytes]
    """By index, for the records whose header says something other than application/json."""
    replayed: dict[int, int]
    """By index, how often a record came back from the dead letters, for those that did."""
    size_bytes: int
    """Of all values, decompressed."""
    corrupt: str | None = None
    """Why none of the records between `start` and `end` can be read; None for a batch as it should be."""

    def __len__(self) -> int:
        return len(self.values)

    def part(self, first: int, last: int) -> "PartitionBatch":
        """The records with index first <= i < last as a batch of their own; parts that touch leave no gap."""
        if (first, last) == (0, len(self)):
            return self

        def within(named: dict[int, T]) -> dict[int, T]:
            return {index - first: value for index, value in named.items() if first <= index < last}

        return PartitionBatch(
            topic=self.topic,
            partition=self.partition,
            start=int(self.offsets[first]) if first else self.start,
            end=int(self.offsets[last]) if last < len(self) else self.end,
            values=self.values[first:last],
            keys=self.keys[first:last],
            offsets=self.offsets[first:last],
            log_time_ms=self.log_time_ms[first:last],
            content_types=within(self.content_types),
            replayed=within(self.replayed),
            size_bytes=sum(map(len, filter(None, self.values[first:last]))),
        )


@dataclass(frozen=True, slots=True)
class Corruption:
    """A Kafka record batch that can't be read: wrong CRC, broken structure or broken compression.

    All before `offset` was handed on. `next_offset` is the end of the batch as its own header says, or the offset
    behind the next when that is broken too.
    """

    offset: int
    next_offset: int
    why: str


class _Columns:
    """A PartitionBatch while it grows, one Kafka batch at a time."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] = []
        self.offsets: list[int] = []
        self.times: list[int] = []
        self.content_types: dict[int, bytes] = {}
        self.replayed: dict[int, int] = {}
        self.size_bytes = 0

    def take(self, batch: DefaultRecordBatch, start: int) -> None:
        """Append the rows of one Kafka batch. If it raises, it may have left a part of them behind."""
        before = len(self.values)
        values, keys, offsets, times = self.values, self.keys, self.offsets, self.times
        # Only after a seek into its middle does a batch begin before the position.
        rows = batch if batch.base_offset >= start else (row for row in batch if row.offset >= start)
        # A batch can be iterated once, and its row objects, when kept, cost as much as all the rest.
        for row in rows:
            values.append(row.value)
            keys.append(row.key)
            offsets.append(row.offset)
            times.append(row.timestamp)
            if row.headers:
                self._note(len(values) - 1, row.headers)
        self.size_bytes += sum(map(len, filter(None, islice(values, before, None))))

    def _note(self, index: int, headers: list[tuple[str, bytes | None]]) -> None:
        if (content_type := _content_type(headers)) != JSON:
            self.content_types[index] = content_type
        for name, value in headers:
            if name == REPLAYED_HEADER and value and value.isdigit() and len(value) <= MOST_REPLAYED_DIGITS:
                self.replayed[index] = int(value)

    def cut(self, length: int) -> None:
        """Forget the rows from `length` on."""
        for column in (self.values, self.keys, self.offsets, self.times):
            del column[length:]
        self.content_types = {index: name for index, name in self.content_types.items() if index < length}
        self.replayed = {index: count for index, count in self.replayed.items() if index < length}

    def as_batch(self, partition: TopicPartition, start: int, end: int, corrupt: str | None = None) -> PartitionBatch:
        return PartitionBatch(
            topic=partition.topic,
            partition=partition.partition,
            start=start,
            end=end,
            values=self.values,
            keys=self.keys,
            offsets=np.array(self.offsets, np.int64),
            log_time_ms=np.array(self.times, np.int64),
            content_types=self.content_types,
            replayed=self.replayed,
            size_bytes=self.size_bytes,
            corrupt=corrupt,
        )


def drain(
    records: PartitionRecords, max_records: int = MAX_EVENT_RECORDS, max_bytes: int = MAX_EVENT_BYTES
) -> tuple[PartitionBatch | None, Corruption | None]:
    """Take Kafka batches off a fetched partition, at least one, until a limit is reached.

    Returns what was read (None = nothing, not even an offset to skip) and what stopped the reading, if anything did.
    """
    start = records.next_fetch_offset
    columns = _Columns()
    failure = None
    while not failure and len(columns.values) < max_records and columns.size_bytes < max_bytes:
        length, batch = len(columns.values), None
        try:
            if (batch := _next_batch(records)) is None:
                break
            if _is_visible(records, batch):
                columns.take(batch, start)
            records.next_fetch_offset = batch.next_offset
        except Exception as error:  # noqa: BLE001 - each codec fails in its own way on hostile bytes
            columns.cut(length)
            here = records.next_fetch_offset
            why = str(error.args[0]) if isinstance(error, CorruptRecordException) else type(error).__name__
            failure = Corruption(here, batch.next_offset if batch else here + 1, why)
    end = records.next_fetch_offset
    return columns.as_batch(records._tp, start, end) if end > start else None, failure


def _next_batch(records: PartitionRecords) -> DefaultRecordBatch | None:
    return records._records.next_batch() if records._records.has_next() else None


def _is_visible(records: PartitionRecords, batch: DefaultRecordBatch) -> bool:
    """As PartitionRecords._unpack_records: check the CRC, follow transactions; no control and no aborted batches."""
    if records._check_crcs and not batch.validate_crc():
        raise CorruptRecordException("wrong CRC")
    if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        records._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and records._contains_abort_marker(batch):
            records._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in records._aborted_producers:
            return False
    return not batch.is_control_batch


def _content_type(headers: list[tuple[str, bytes | None]]) -> bytes:
    for name, value in headers:
        if name == CONTENT_TYPE and value:
            return value
    return JSON


class LoopConsumer(AIOKafkaConsumerThread):  # type: ignore[misc] # Faust ships no types
    """Faust's consumer thread without the thread: aiokafka runs on the app's own loop.

    A thread buys no parallelism under one interpreter lock. It costs hand-overs of that lock (17 times the context
    switches on two cores, a busy agent 15 % slower) and makes every call and every error cross threads. The price of
    one loop: the heartbeat waits while the agent computes. MAX_EVENT_RECORDS keeps a step far below SESSION_TIMEOUT_S;
    a loop that hangs for longer loses its partitions, as it should.
    """

    wait_for_shutdown = False

    consumer: "BatchConsumer"

    def __init__(self, consumer: "BatchConsumer", **options: Any) -> None:  # noqa: ANN401 - Faust's own
        super().__init__(consumer, thread_loop=consumer.loop, **options)
        self._doubtful: dict[TopicPartition, int] = {}  # where a corrupt batch was met once

    # The life of a plain service, instead of ServiceThread's.
    start = Service.start
    maybe_start = Service.maybe_start
    stop = Service.stop
    crash = Service.crash
    set_shutdown = Service.set_shutdown
    _stopped_set = Service._stopped_set
    _stop_children = Service._stop_children
    _stop_futures = Service._stop_futures
    _stop_exit_stacks = Service._stop_exit_stacks

    async def on_stop(self) -> None:
        if self._consumer is not None:
            await end_fetches(self._consumer)
        try:
            async with asyncio.timeout(LEAVE_S):
                await self.on_thread_stop()
        except TimeoutError:  # Kafka is away; aiokafka would wait a minute for leave to go
            consumer = self._ensure_consumer()
            await consumer._fetcher.close()
            await consumer._client.close()

    def close(self) -> None:
        """Nothing, when a rebalance meets a stopping app: `on_stop` is about to close aiokafka in its own order."""

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Faust's
        return await maybe_async(fun(*args, **kwargs))

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.consumer.on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await self.consumer.on_partitions_assigned(assigned, generation_id)

    def _create_worker_consumer(self, transport: Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        # Faust's 1.5 s is how late a partition that resumes or was sought may be fetched again.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Not for input topics: the worker seeks to what its state includes, which a commit may lag behind."""
        consumer = self._ensure_consumer()
        others = [partition for partition in consumer.assignment() if partition.topic not in self.consumer.input_topics]
        return await consumer.seek_to_committed(*others) if others else {}

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> dict[TopicPartition, list[Any]]:
        """Fetcher.fetched_records, with a gate for input topics.

        Stock takes an empty active set for all partitions, which Faust's set is for a moment in every recovery.
        """
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        with fetcher._subscriptions.fetch_context():
            if drained := self._take(fetcher, active_partitions, max_records):
                return drained
            waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([waiter], timeout=REBALANCE_POLL_S if self.app.rebalancing else timeout)
            if not waiter.done():
                waiter.cancel()
                return {}
            waiter.result()
            return self._take(fetcher, active_partitions, max_records)

    def _take(self, fetcher: Fetcher, active: set[TP], max_records: int | None) -> dict[TopicPartition, list[Any]]:
        """What is fetched and may be read now. Never waits, so that nothing changes hands meanwhile."""
        taken: dict[TopicPartition, list[Any]] = {}
        if not self.consumer.flow_active or fetcher._subscriptions.reassignment_in_progress:
            return taken
        for partition, result in list(fetcher._records.items()):
            if partition not in active:
                if not fetcher._subscriptions.is_assigned(partition):
                    del fetcher._records[partition]
            elif not self.consumer.is_readable(partition):
                continue
            elif isinstance(result, FetchResult):
                if rows := self._rows(fetcher, partition, result, max_records):
                    taken[partition] = rows
            elif not taken:  # an error: what was taken goes first
                self._forget(fetcher, partition)
                result.check_raise()
        return taken

    def _rows(
        self, fetcher: Fetcher, partition: TopicPartition, result: FetchResult, max_records: int | None
    ) -> list[Any]:
        rows: list[Any] = []
        failure = None
        if partition.topic not in self.consumer.input_topics:
            rows = result.getall(max_records)
        elif result.check_assignment(partition):
            batch, failure = drain(result._partition_records)
            rows = [batch] if batch else []
            if failure and self._is_seen_again(partition, failure):
                rows.append(_Columns().as_batch(partition, failure.offset, failure.next_offset, failure.why))
                result._partition_records.next_fetch_offset = failure.next_offset
            result._update_position()
            if not result._partition_records._records.has_next():
                result._partition_records = None
        if failure or not result.has_more():
            self._forget(fetcher, partition)
        return rows

    def _is_seen_again(self, partition: TopicPartition, failure: Corruption) -> bool:
        """Bytes that came damaged are fetched once more; those that lie damaged on the broker come so again."""
        is_known = self._doubtful.pop(partition, None) == failure.offset
        if not is_known:
            self._doubtful[partition] = failure.offset
        return is_known

    @staticmethod
    def _forget(fetcher: Fetcher, partition: TopicPartition) -> None:
        """Let the fetcher ask for more of this partition."""
        del fetcher._records[partition]
        fetcher._notify(fetcher._wait_consume_future)

    def wake(self) -> None:
        """Let a waiting poll look again."""
        if self._consumer is not None:
            for waiter in self._consumer._fetcher._fetch_waiters:
                self._consumer._fetcher._notify(waiter)


class BatchConsumer(Consumer):  # type: ignore[misc] # Faust ships no types
    """Faust's consumer, which hands on a PartitionBatch per poll and partition of an input topic."""

    _thread: LoopConsumer

    def __post_init__(self) -> None:
        self.input_topics: frozenset[str] = self.app.input_topics
        self._paused: set[TP] = set()

    def _new_consumer_thread(self) -> LoopConsumer:
        return LoopConsumer(self, loop=self.loop, beacon=self.beacon)

    def pause(self, partitions: Iterable[TP]) -> None:
        """Hand on no more batches of these input partitions: aiokafka holds one fetch of each and asks for no more.

        What is already on its way still arrives. Faust's own pause_partitions would drop that, with the position behind
        it. A rebalance resumes all.
        """
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[TP]) -> None:
        self._paused.difference_update(partitions)
        self._thread.wake()

    def is_readable(self, partition: TopicPartition) -> bool:
        """Input waits for the end of a rebalance: until then Faust clears its queues, with the position moved on."""
        if partition.topic not in self.input_topics:
            return True
        return not self.app.rebalancing and partition not in self._paused

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._paused.clear()
        await super().on_partitions_revoked(revoked)

    # A full queue already blocks the loop that reads; these would take the partition out of the active set as well, and
    # what a poll has just brought with it.
    def on_buffer_full(self, tp: TP) -> None: ...

    def on_buffer_drop(self, tp: TP) -> None: ...

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: Faust would call an idle or a paused partition slow. The worker watches its own offsets."""

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:  # noqa: ANN401 - a batch or aiokafka's record
        if not isinstance(record, PartitionBatch):
            return super()._to_message(tp, record)
        # Faust silently drops what is below the offset it read last, for ever when a topic was made anew.
        self._read_offset[tp] = None
        return ConsumerMessage(
            topic=record.topic,
            partition=record.partition,
            offset=record.start,
            timestamp=record.log_time_ms[-1] / 1000 if len(record) else 0.0,
            timestamp_type=0,
            headers=(),
            key=None,
            value=record,
            checksum=None,
            serialized_key_size=0,
            serialized_value_size=record.size_bytes,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )


class BatchTransport(Transport):  # type: ignore[misc] # Faust ships no types
    """Faust's aiokafka transport with our consumer."""

    Consumer = BatchConsumer


class BatchSchema(faust.Schema):  # type: ignore[misc] # Faust ships no types
    """Nothing to decode: the value is a PartitionBatch already."""

    def loads_key(self, _app: faust.App, _message: ConsumerMessage, **_: object) -> None:
        return None

    def loads_value(self, _app: faust.App, message: ConsumerMessage, **_: object) -> PartitionBatch:
        batch: PartitionBatch = message.value
        return batch


class BatchApp(faust.App):  # type: ignore[misc] # Faust ships no types
    """A Faust app whose input topics bring partition batches. Make it with `make_app`, live it with `run`."""

    def __init__(self, group: str, *, input_topics: Iterable[str], **options: Any) -> None:  # noqa: ANN401 - Faust's own
        self.input_topics = frozenset(input_topics)
        self.parts_started = asyncio.Event()
        super().__init__(group, **options)

    def batches(self, topic: str) -> faust.Topic:
        """The channel for an agent of an input topic. Faust acks nothing on it, so Faust never commits it."""
        if topic not in self.input_topics:
            raise ValueError(f"topic {topic!r} is not among the input topics {sorted(self.input_topics)}")
        return self.topic(topic, schema=BatchSchema(), acks=False)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    async def on_first_start(self) -> None:
        """Not Faust's folder for tables in the working directory: nothing of ours is on this disk."""

    async def on_started(self) -> None:
        self.parts_started.set()
        await super().on_started()


def make_app(settings: Settings, input_topics: Iterable[str]) -> BatchApp:
    """The app of one worker, not started. Every option beyond the connection is here for a measured reason."""
    return BatchApp(
        settings.group_id,
        input_topics=input_topics,
        broker=[f"kafka://{address}" for address in settings.bootstrap_servers],
        broker_credentials=_credentials(settings),
        # Kill to takeover 6-7 s, instead of 60 with Faust's defaults.
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_rebalance_timeout=SESSION_TIMEOUT_S,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=FETCH_BYTES,
        consumer_metadata_max_age_ms=METADATA_MS,
        stream_buffer_maxsize=QUEUED_EVENTS,
        # With acks off there is nothing to wait for, and each rebalance would wait a second for it.
        stream_wait_empty=False,
        # An agent that fails has lost its place: the worker must stop and begin anew at its checkpoint.
        agent_supervisor=CrashingSupervisor,
        table_standby_replicas=0,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
    )


def _credentials(settings: Settings) -> SASLCredentials | SSLCredentials | None:
    context = ssl_context(settings) if settings.security_protocol.endswith("SSL") else None
    if settings.security_protocol.startswith("SASL") and settings.sasl_password:
        return SASLCredentials(
            username=settings.sasl_username,
            password=settings.sasl_password.get_secret_value(),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return SSLCredentials(context) if context else None


async def run(app: BatchApp, stop: asyncio.Event) -> None:
    """Live the app on this loop until `stop` is set, then stop it. Raises what crashed it, and if Kafka is not there.

    Without Faust's command line and its Worker: they set up logging, signals and a web port by their own ideas (their
    --with-web even overrules web_enabled).
    """
    stopping = asyncio.create_task(_stop_after(app, stop))
    try:
        await app.start()
        await app.wait_until_stopped()
    finally:
        stop.set()
        app.parts_started.set()
        await stopping
    if app.crash_reason is not None:
        raise app.crash_reason


async def _stop_after(app: BatchApp, stop: asyncio.Event) -> None:
    await stop.wait()
    # Stopped earlier, a client that is just connecting would stay open for ever.
    await app.parts_started.wait()
    await app.stop()
