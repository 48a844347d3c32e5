"""What streams.worker.transport, .offsets and streams.kafka take for granted inside Faust, mode and aiokafka.

A new version of one of them that breaks this file has moved a private part. Each test says which habit of ours rests on
it; read the new source there before changing the expectation. No server is needed.
"""

import asyncio
import inspect
from collections.abc import Sequence
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher as fetching
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from faust.app import App
from faust.transport import consumer as consuming
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import Service
from mode.threads import ServiceThread

from streams.kafka import end_fetches
from streams.settings import Settings
from streams.worker.transport import Corruption, LoopConsumer, drain, make_app

PLACE = TopicPartition("sms.submit.v1", 3)
NO_PRODUCER = -1
EVERYTHING = 10**9


def batch(
    base_offset: int,
    offsets: Sequence[int],
    *,
    codec: int = 0,
    producer: int = NO_PRODUCER,
    transactional: bool = False,
) -> bytearray:
    """A Kafka record batch (magic 2) as a broker stores it; `offsets` may have holes, as after compaction."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=int(transactional),
        producer_id=producer,
        producer_epoch=0,
        base_sequence=0,
        batch_size=2**20,
    )
    for offset in offsets:
        builder.append(offset - base_offset, 1_000 + offset, b"k", b"v%d" % offset, [])
    raw = bytearray(builder.build())
    raw[0:8] = base_offset.to_bytes(8, "big")
    return raw


def fetched(
    raw: bytes | bytearray, position: int = 0, *, isolation: int = READ_COMMITTED, aborted: Any = None
) -> PartitionRecords:
    return PartitionRecords(
        tp=PLACE,
        records=MemoryRecords(bytes(raw)),
        aborted_transactions=aborted,
        fetch_offset=position,
        key_deserializer=None,
        value_deserializer=None,
        check_crcs=True,
        isolation_level=isolation,
    )


def read(records: PartitionRecords) -> list[bytes | None]:
    """Drain to the end; each drain must move the position."""
    values: list[bytes | None] = []
    while True:
        found, failure = drain(records)
        assert failure is None
        if found is None:
            return values
        values += found.values


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_versions_are_the_ones_this_was_read_in() -> None:
    assert {name: version(name) for name in ("faust-streaming", "aiokafka", "mode-streaming")} == {
        "faust-streaming": "0.15.3",
        "aiokafka": "0.14.0",
        "mode-streaming": "0.7.1",
    }


# --- aiokafka: what drain() does in place of PartitionRecords._unpack_records


def test_the_loop_that_drain_replaces_is_unchanged() -> None:
    """drain() repeats it batch by batch: CRC, aborted transactions, control batches, positions."""
    source = inspect.getsource(PartitionRecords._unpack_records)
    steps = [
        "records.has_next()",
        "records.next_batch()",
        "self._check_crcs and not next_batch.validate_crc()",
        "self._isolation_level == READ_COMMITTED",
        "next_batch.producer_id is not None",
        "self._consume_aborted_up_to(next_batch.base_offset)",
        "next_batch.is_control_batch",
        "self._contains_abort_marker(next_batch)",
        "self._aborted_producers.discard(next_batch.producer_id)",
        "next_batch.is_transactional",
        "next_batch.producer_id in self._aborted_producers",
        "self.next_fetch_offset = next_batch.next_offset",
    ]
    places = [source.find(step) for step in steps]
    assert -1 not in places, steps[places.index(-1)]
    assert places == sorted(places)


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("position", [0, 3, 9, 10, 14])
def test_drain_reads_what_aiokafka_reads(codec: int, position: int) -> None:
    # As brokers do: from the batch on that holds the position.
    raw = (batch(0, range(10), codec=codec) if position < 10 else bytearray()) + batch(10, [10, 12, 15], codec=codec)
    theirs = list(fetched(raw, position))
    found, failure = drain(fetched(raw, position))
    assert failure is None
    assert found is not None
    assert found.values == [row.value for row in theirs]
    assert found.keys == [row.key for row in theirs]
    assert found.offsets.tolist() == [row.offset for row in theirs]
    assert found.log_time_ms.tolist() == [row.timestamp for row in theirs]
    assert (found.start, found.end) == (position, 16)
    assert found.size_bytes == sum(len(row.value) for row in theirs)


@pytest.mark.parametrize("isolation", [READ_COMMITTED, READ_UNCOMMITTED])
def test_drain_leaves_out_what_aiokafka_leaves_out(isolation: int) -> None:
    raw = (
        batch(0, range(3), producer=7, transactional=True)
        + batch(3, range(3, 5), producer=8, transactional=True)
        + batch(5, range(5, 6))
    )
    theirs = [row.value for row in fetched(raw, isolation=isolation, aborted=[(7, 0)])]
    assert read(fetched(raw, isolation=isolation, aborted=[(7, 0)])) == theirs
    assert len(theirs) == (3 if isolation == READ_COMMITTED else 6)


def test_drain_stops_at_kafka_batches_and_always_takes_one() -> None:
    raw = batch(0, range(10)) + batch(10, range(10, 20)) + batch(20, range(20, 30))
    records = fetched(raw)
    taken = [drain(records, 15, EVERYTHING)[0], drain(records, 15, EVERYTHING)[0], drain(records, 15, EVERYTHING)[0]]
    assert [(found.start, found.end) if found else None for found in taken] == [(0, 20), (20, 30), None]
    records = fetched(raw)
    taken = [drain(records, EVERYTHING, 1)[0] for _ in range(4)]
    assert [(found.start, found.end) if found else None for found in taken] == [(0, 10), (10, 20), (20, 30), None]


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_drain_hands_on_what_is_before_a_broken_batch(codec: int) -> None:
    broken = batch(10, range(10, 20), codec=codec)
    broken[-1] ^= 1
    records = fetched(batch(0, range(10)) + broken)
    found, failure = drain(records)
    assert found is not None
    assert (found.start, found.end, len(found)) == (0, 10, 10)
    assert failure == Corruption(10, 20, "wrong CRC")


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_drain_names_a_batch_that_is_broken_under_a_right_crc(codec: int) -> None:
    records = fetched(_uncompressed_but_called(codec))
    found, failure = drain(records)
    assert found is None
    assert isinstance(failure, Corruption)
    assert (failure.offset, failure.next_offset) == (0, 3)


def _uncompressed_but_called(codec: int) -> bytes:
    raw = batch(0, range(3))
    raw[22] = codec  # the low byte of the attributes
    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4, "big")
    return bytes(raw)


def test_a_batch_is_iterated_once() -> None:
    """Why drain() takes every column in one pass."""
    once = DefaultRecordBatch(bytes(batch(0, range(3))))
    assert [row.offset for row in once] == [0, 1, 2]
    with pytest.raises((AssertionError, aiokafka.errors.CorruptRecordException)):
        list(once)


# --- aiokafka: the fetcher, the subscription, the consumer


def test_fetch_result_is_what_we_take_apart() -> None:
    assert parameters(FetchResult.__init__) == ["self", "tp", "assignment", "partition_records", "backoff"]
    for name in ("check_assignment", "has_more", "getall", "_update_position"):
        assert callable(getattr(FetchResult, name)), name
    assert "self._partition_records is not None" in inspect.getsource(FetchResult.has_more)
    assert "self._partition_records = None" in inspect.getsource(FetchResult.check_assignment)


def test_fetcher_has_the_parts_we_use() -> None:
    """_fetch_records stands for Fetcher.fetched_records; new are the gate, the empty active set and the drain."""
    source = inspect.getsource(fetching.Fetcher.fetched_records)
    for step in (
        "for tp in list(self._records.keys())",
        "self._subscriptions.is_assigned(tp)",
        "type(res_or_error) is FetchResult",
        "res_or_error.getall(max_records)",
        "del self._records[tp]",
        "self._notify(self._wait_consume_future)",
        "res_or_error.check_raise()",
        "self._create_fetch_waiter()",
        "self._subscriptions.reassignment_in_progress",
    ):
        assert step in source, step
    setup = inspect.getsource(fetching.Fetcher.__init__)
    for name in ("_records", "_fetch_waiters", "_wait_consume_future", "_closed", "_subscriptions", "_isolation_level"):
        assert f"self.{name} = " in setup, name
    assert parameters(fetching.Fetcher._set_error) == ["self", "tp", "error"]
    assert "FetchError(error=error" in inspect.getsource(fetching.Fetcher._set_error)
    assert hasattr(SubscriptionState, "fetch_context")
    assert isinstance(inspect.getattr_static(SubscriptionState, "reassignment_in_progress"), property)


async def test_consumer_reads_its_options_only_at_start() -> None:
    """_create_worker_consumer changes two of them between making and starting."""
    consumer = aiokafka.AIOKafkaConsumer(isolation_level="read_uncommitted", fetch_max_wait_ms=1500)
    assert (consumer._isolation_level, consumer._fetch_max_wait_ms) == ("read_uncommitted", 1500)
    assert consumer._closed is False
    await consumer.stop()
    start = inspect.getsource(aiokafka.AIOKafkaConsumer.start)
    assert "isolation_level=self._isolation_level" in start
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in start


def test_committed_metadata_is_read_from_the_coordinator() -> None:
    """AIOKafkaConsumer.committed() drops it."""
    assert parameters(GroupCoordinator.fetch_committed_offsets) == ["self", "partitions"]
    assert inspect.iscoroutinefunction(GroupCoordinator.fetch_committed_offsets)
    source = inspect.getsource(GroupCoordinator.commit_offsets)
    for refusal in ("UnknownMemberIdError", "IllegalGenerationError", "RebalanceInProgressError"):
        assert refusal in source
    assert "raise Errors.CommitFailedError" in source


def test_what_a_stop_does_behind_its_wait_is_done_by_hand_when_kafka_is_away() -> None:
    consumer = inspect.getsource(aiokafka.AIOKafkaConsumer.stop)
    calls = ["self._coordinator.close()", "self._fetcher.close()", "self._client.close()"]
    assert [line.strip() for line in consumer.splitlines() if "close()" in line] == [f"await {call}" for call in calls]
    producer = inspect.getsource(aiokafka.AIOKafkaProducer.stop)
    assert producer.index("_message_accumulator.close()") < producer.index("await self._sender.close()")
    assert producer.index("await self._sender.close()") < producer.index("await self.client.close()")


def test_partitions_of_both_libraries_are_one_key() -> None:
    assert TP(*PLACE) == PLACE
    assert hash(TP(*PLACE)) == hash(PLACE)


# --- Faust and mode


def test_what_makes_a_service_a_thread_is_taken_back() -> None:
    """LoopConsumer must undo all that ServiceThread changes in Service; what a new version adds would still run."""
    changed = {name for name, value in vars(ServiceThread).items() if callable(value) and name in dir(Service)}
    # The shutdown event belongs to the parent's loop, which here is the same one.
    assert changed - {*vars(LoopConsumer)} == {"_new_shutdown_event"}
    assert ServiceThread.wait_for_shutdown
    assert not LoopConsumer.wait_for_shutdown
    assert parameters(driver.AIOKafkaConsumerThread.call_thread) == ["self", "fun", "args", "kwargs"]


def test_consumer_methods_have_our_signatures() -> None:
    thread, consumer = driver.AIOKafkaConsumerThread, driver.Consumer
    assert parameters(thread._fetch_records) == parameters(LoopConsumer._fetch_records)
    assert parameters(thread._create_worker_consumer) == ["self", "transport"]
    assert parameters(thread.seek_to_committed) == ["self"]
    assert parameters(thread.on_partitions_revoked) == ["self", "revoked"]
    assert parameters(thread.on_partitions_assigned) == ["self", "assigned", "generation_id"]
    assert parameters(thread.close) == ["self"]
    assert callable(thread.on_thread_stop)
    assert callable(thread._ensure_consumer)
    assert parameters(consumer._new_consumer_thread) == ["self"]
    assert parameters(consumer._to_message) == ["self", "tp", "record"]
    assert parameters(consumer.on_buffer_full) == parameters(consumer.on_buffer_drop) == ["self", "tp"]
    assert parameters(consumer.verify_event_path) == ["self", "now", "tp"]
    assert parameters(App._new_transport) == ["self"]
    assert driver.Transport.Consumer is driver.Consumer
    assert parameters(faust.Schema.loads_value)[:3] == ["self", "app", "message"]


def test_faust_still_has_the_habits_we_work_around() -> None:
    """Where one of these is gone, so may be what we do about it."""
    # is_readable: the gate. The flag is set first and cleared last.
    listener = inspect.getsource(driver.ConsumerRebalanceListener.on_partitions_revoked)
    assert "thread.app.on_rebalance_start()" in listener
    assert "self.rebalancing = True" in inspect.getsource(App.on_rebalance_start)
    assert "self.rebalancing = False" in inspect.getsource(App.on_rebalance_end)
    # _to_message: Faust's duplicate check by offset.
    loop = inspect.getsource(consuming.Consumer._drain_messages)
    assert "if r_offset is None or offset >= r_offset" in loop
    # on_buffer_full: a full queue takes the partition out of the active set.
    assert "active_partitions.discard(tp)" in inspect.getsource(consuming.Consumer.on_buffer_full)
    # pause: what is not active is dropped after it was fetched.
    assert "tp in active_partitions" in inspect.getsource(consuming.Consumer.getmany)
    # close: it starts coroutines that nobody waits for.
    assert "run_coroutine_threadsafe" in inspect.getsource(driver.AIOKafkaConsumerThread.close)
    # on_first_start: it makes folders in the working directory.
    assert "_create_directories" in inspect.getsource(App.on_first_start)


async def test_app_is_composed_of_our_parts() -> None:
    app = make_app(Settings(group_id="contract"), ["sms.submit.v1"])
    app.finalize()
    assert type(app.consumer).__name__ == "BatchConsumer"
    assert isinstance(app.consumer._thread, LoopConsumer)
    assert app.consumer._thread.thread_loop is asyncio.get_running_loop()
    assert app.consumer.commit_interval > 0
    topic = app.batches("sms.submit.v1")
    assert topic.acks is False
    with pytest.raises(ValueError, match=r"sms\.other.*sms\.submit\.v1"):
        app.batches("sms.other")
    consumer = app.consumer._thread._create_worker_consumer(app.transport)
    assert (consumer._isolation_level, consumer._session_timeout_ms, consumer._heartbeat_interval_ms) == (
        "read_committed",
        6000,
        500,
    )
    assert consumer._enable_auto_commit is False
    await consumer.stop()


async def test_event_carries_the_batch_itself() -> None:
    app = make_app(Settings(group_id="contract"), ["sms.submit.v1"])
    found, _ = drain(fetched(batch(40, range(40, 43)), 40))
    assert found is not None
    app.consumer._read_offset[TP(*PLACE)] = 1000
    message = app.consumer._to_message(TP(*PLACE), found)
    assert isinstance(message, ConsumerMessage)
    assert (message.offset, message.tp, message.generation_id) == (40, PLACE, app.consumer_generation_id)
    assert app.consumer._read_offset[TP(*PLACE)] is None
    event = await app.batches("sms.submit.v1").decode(message)
    assert event.value is found


# ---- streams.kafka


async def test_a_batch_that_waits_for_a_leader_expires_by_the_time_that_we_make_endless() -> None:
    """And with it a hole in the numbers of an idempotent producer's batches."""
    source = inspect.getsource(MessageAccumulator)
    assert "MessageBatch(tp, builder, self._batch_ttl, self._linger_time)" in source
    assert "if self._batches[tp][0].expired():" in source


@pytest.mark.parametrize("is_ended_before", [False, True])
async def test_a_fetcher_that_closes_throws_the_end_of_a_fetch_at_its_caller(*, is_ended_before: bool) -> None:
    """Which must not be taken for our own; it is so for one that waits before it tries again."""
    retrying, routine = (asyncio.create_task(asyncio.sleep(60)) for _ in range(2))
    fetcher = SimpleNamespace(_closed=False, _fetch_task=routine, _fetch_waiters=[], _pending_tasks={retrying})
    await asyncio.sleep(0)
    if is_ended_before:
        await end_fetches(SimpleNamespace(_fetcher=fetcher))
        await fetching.Fetcher.close(fetcher)
    else:
        with pytest.raises(asyncio.CancelledError):
            await fetching.Fetcher.close(fetcher)
    assert retrying.cancelled()
    assert routine.cancelled()
