"""A file into the topic of submits: lines through an adapter, packed into one batch per partition, sent in file order.

All records of a port go to the partition that murmur2 of the port says, as with every Kafka client. Nothing that was
read is given up while Kafka is away: the feed waits and says so. Feeding a file again is safe, since its event ids are
the same and repeats are dropped downstream; so a feed keeps no place in the file.
"""

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time_ns
from typing import NamedTuple, Self, TypeVar

from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from streams.feeds.lines import Piece, pause, pieces
from streams.feeds.playback import Playback
from streams.feeds.progress import FeedProgress
from streams.feeds.record import Adapter, Record
from streams.kafka import admin_client, started_producer, wait_for_broker
from streams.settings import Settings
from streams.topics import SUBMIT

OVERLONG = "line over 1 MB"
BATCH_BYTES = 1 << 19
"""Half of Kafka's default `message.max.bytes`, so that no header pushes a full batch over it."""
PATIENCE_S = 5.0
"""Silence of Kafka after which we say that we wait; told to stop, we wait no longer than that."""
PORTS_REMEMBERED = 1 << 17

T = TypeVar("T")


class FeedError(Exception):
    """Kafka refused for good; the text says what, and how far the feed got."""


@dataclass(slots=True)
class Summary:
    """What a feed did. Every line became a record that was sent, is counted in `skipped`, or (`is_complete` false) was
    not acknowledged; a record of a Kannel log can span lines.
    """

    lines: int = 0
    sent: int = 0  # records that Kafka acknowledged
    skipped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    is_complete: bool = False  # the whole file, or all that came before a stop while following

    def __str__(self) -> str:
        skipped = "".join(f", {count:,} {kind}" for kind, count in sorted(self.skipped.items()) if count)
        end = "" if self.is_complete else "; not finished: feed it again, repeats are dropped by their event_id"
        return f"{self.lines:,} lines, {self.sent:,} submits sent{skipped}, {self.seconds:.1f} s{end}"


def run(
    adapter: Adapter, file: Path, settings: Settings, *, follow: bool = False, speed: float | None = None
) -> Summary:
    """`feed` with progress on stderr, for a command line; the first SIGINT or SIGTERM ends it in order."""

    # aiokafka has a line for every partition and attempt while a broker is away; `feed` says it once.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

    async def main() -> Summary:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def stop_once() -> None:
            stop.set()
            loop.remove_signal_handler(signal.SIGINT)  # who is in a hurry can interrupt the farewell

        loop.add_signal_handler(signal.SIGINT, stop_once)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        with FeedProgress(file.name) as progress:
            summary = await feed(
                adapter, file, settings, follow=follow, speed=speed, stop=stop, say=progress.say, show=progress.show
            )
        progress.say(str(summary))
        return summary

    return asyncio.run(main())


async def feed(
    adapter: Adapter,
    file: Path,
    settings: Settings,
    *,
    follow: bool = False,
    speed: float | None = None,
    stop: asyncio.Event | None = None,
    say: Callable[[str], None] = lambda _: None,
    show: Callable[[int, int, int], None] = lambda _position, _size, _sent: None,
) -> Summary:
    """Send the file's submits to `sms.submit.v1` of `settings`, in file order, until its end or `stop`.

    `follow`: go on with what is written later, as `tail -F` does. `speed`: let event time pass at so many times real
    time instead of as fast as possible. `say` gets lines for a person, `show` bytes read, file size, records sent.
    Raises OSError for the file, ValueError for the speed, KafkaUnreachableError when no broker answers at the start,
    FeedError when Kafka refuses later on.
    """
    stop = stop or asyncio.Event()
    playback = Playback(speed) if speed is not None else None
    if not follow:
        file.open("rb").close()  # before Kafka is asked for anything
    await wait_for_broker(settings, say)
    summary, started_s = Summary(), monotonic()
    async with _Sender(settings, stop, say) as sender:
        try:
            async for piece in pieces(file, follow=follow, stop=stop, say=say):
                records = _translate(adapter, piece, summary)
                async for due in _in_time(records, playback, stop):
                    await sender.send(due)
                show(piece.position, piece.size, sender.acknowledged)
            await sender.send(adapter.end())
            await sender.settle()
            summary.is_complete = follow or not stop.is_set()
        except _GivenUpError:
            pass
        except KafkaError as error:
            raise FeedError(f"{sender.topic}: {error!r} after {sender.acknowledged:,} submits") from error
        finally:
            summary.sent = sender.acknowledged
    summary.skipped += adapter.skipped
    summary.seconds = monotonic() - started_s
    return summary


def _translate(adapter: Adapter, piece: Piece, summary: Summary) -> list[Record]:
    summary.lines += len(piece.lines) + piece.overlong
    if piece.overlong:
        summary.skipped[OVERLONG] += piece.overlong
    return adapter.records(piece.lines, _now_ms() if piece.is_live else None)


async def _in_time(
    records: list[Record], playback: Playback | None, stop: asyncio.Event
) -> AsyncIterator[list[Record]]:
    """The records as they fall due; all at once without a playback."""
    due: list[Record] = []
    for record in records:
        if playback and playback.wait_s(record.event_time_ms, monotonic()) > 0:
            yield due
            due = []
            await pause(stop, playback.wait_s(record.event_time_ms, monotonic()))
            if stop.is_set():
                return
        due.append(record)
    yield due


class _GivenUpError(Exception):
    """Told to stop, and Kafka acknowledges nothing."""


class _Unsettled(NamedTuple):
    acknowledgement: asyncio.Future[object]
    records: int


class _Sender:
    """Packs records into batches of aiokafka's own, since a call per record costs ten times the rest of the way."""

    def __init__(self, settings: Settings, stop: asyncio.Event, say: Callable[[str], None]) -> None:
        self.topic = SUBMIT.with_prefix(settings.topic_prefix).name
        self.acknowledged = 0
        self._where = ",".join(settings.bootstrap_servers)
        self._settings = settings
        self._stop = stop
        self._say = say
        self._partitions: list[int] = []
        self._partition_of: dict[bytes | None, int] = {}
        self._unsettled: list[_Unsettled] = []

    async def __aenter__(self) -> Self:
        async with admin_client(self._settings) as admin:
            if self.topic not in await admin.list_topics():  # asked for by name, it might be created with one partition
                raise FeedError(f"{self.topic}: no such topic at {self._where}: portwatch topics create")
        self._producer = await started_producer(self._settings, max_batch_size=BATCH_BYTES, compression_type="zstd")
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watcher.cancel()
        try:
            await asyncio.wait_for(self._producer.stop(), PATIENCE_S)
        except TimeoutError:
            self._say(f"Kafka at {self._where} is away: closed without its acknowledgement")

    async def send(self, records: list[Record]) -> None:
        """Hand the records over, in order; waits while Kafka is slower than we. Raises KafkaError, _GivenUpError."""
        await self._look_at_partitions()
        now_ms = _now_ms()
        batches: dict[int, BatchBuilder] = {}
        for key, value, _ in records:
            partition = self._partition_of.get(key)
            if partition is None:
                partition = self._choose_partition(key)
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = self._producer.create_batch()
            if batch.append(key=key, value=value, timestamp=now_ms) is None:  # full
                await self._hand_over(batch, partition)
                batch = batches[partition] = self._producer.create_batch()
                batch.append(key=key, value=value, timestamp=now_ms)
        for partition, batch in batches.items():
            await self._hand_over(batch, partition)

    async def settle(self) -> None:
        """Wait until everything is acknowledged. Raises as `send`."""
        while self._unsettled:
            await self._patiently(self._unsettled[0].acknowledgement)
            self._count_acknowledged()

    async def _hand_over(self, batch: BatchBuilder, partition: int) -> None:
        """Into aiokafka's queue, which has one place per partition: that bounds the memory and keeps the order."""
        self._count_acknowledged()
        while True:
            try:
                sent = await self._patiently(self._producer.send_batch(batch, self.topic, partition=partition))
            except KafkaTimeoutError:  # no place was free for long; the batch is as it was
                continue
            self._unsettled.append(_Unsettled(sent, batch.record_count()))
            return

    def _count_acknowledged(self) -> None:
        waiting = []
        for batch in self._unsettled:
            if batch.acknowledgement.done():
                batch.acknowledgement.result()
                self.acknowledged += batch.records
            else:
                waiting.append(batch)
        self._unsettled = waiting

    async def _look_at_partitions(self) -> None:
        found = sorted(await self._patiently(self._producer.partitions_for(self.topic)))
        if found != self._partitions:
            self._partitions = found
            self._partition_of.clear()

    def _choose_partition(self, key: bytes | None) -> int:
        partition: int = DefaultPartitioner()(key, self._partitions, self._partitions)
        if key is not None:
            if len(self._partition_of) >= PORTS_REMEMBERED:
                self._partition_of.clear()
            self._partition_of[key] = partition
        return partition

    async def _patiently(self, work: Awaitable[T]) -> T:
        """Wait as long as it takes; once told to stop, for PATIENCE_S more."""
        task = asyncio.ensure_future(work)
        while True:
            was_told_to_stop = self._stop.is_set()
            done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
            if done:
                return task.result()
            if was_told_to_stop:
                task.cancel()
                raise _GivenUpError

    async def _watch(self) -> None:
        """Say when Kafka has left a batch without an answer for PATIENCE_S."""
        while True:
            oldest = self._oldest_unsettled()
            await asyncio.sleep(PATIENCE_S)
            if oldest and oldest is self._oldest_unsettled():
                self._say(f"waiting for Kafka at {self._where}: {self.acknowledged:,} submits acknowledged so far")

    def _oldest_unsettled(self) -> _Unsettled | None:
        return next((batch for batch in self._unsettled if not batch.acknowledgement.done()), None)


def _now_ms() -> int:
    return time_ns() // 1_000_000
