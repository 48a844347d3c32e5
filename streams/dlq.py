"""The dead letter queue for people: what was rejected and why, and sending it again once the reason is gone.

Content stays hidden unless asked for: a rejected submit holds what a good one does. `replay` keeps its progress per
reason in the offsets of a consumer group of its own, so that a second replay sends nothing twice.
"""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from rich.table import Table
from rich.text import Text

from streams import topics
from streams.contract import RejectReason
from streams.kafka import admin_client, committed, consumer_client, producer_client, records_to_end
from streams.settings import Settings

REPLAYED_HEADER = "dlq.replayed"
"""How often the record has been sent again."""
OTHER = "other"
"""Reason of a record that names none of ours."""
ALL_REASONS = frozenset([*RejectReason, OTHER])
SHOWN_BYTES = 48
SHOWN_CONTENT_BYTES = 400
CHUNK = 500
LONGEST_PROGRESS = 4_000
"""Kafka keeps 4,096 bytes beside an offset (offset.metadata.max.bytes)."""


class DeadLetterError(Exception):
    """The dead letter topic can't be read or replayed as asked."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of the dead letter topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Mapping[str, bytes]

    @classmethod
    def of(cls, record: ConsumerRecord) -> "Letter":
        headers = dict(record.headers)
        return cls(record.partition, record.offset, record.key, record.value, record.timestamp, headers)

    @property
    def reason(self) -> str:
        told = self.text("dlq.reason")
        return told if told in ALL_REASONS else OTHER

    @property
    def origin(self) -> str:
        line = self.text("dlq.original.line")
        place = f"{self.text('dlq.original.topic')}/{self.text('dlq.original.partition')}"
        return f"{place}@{self.text('dlq.original.offset')}{':' + line if line else ''}"

    def text(self, header: str) -> str:
        return self.headers.get(header, b"").decode("utf-8", "replace")

    def number(self, header: str) -> int | None:
        told = self.text(header)
        return int(told) if re.fullmatch(r"[0-9]{1,18}", told) else None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters: of these reasons (empty = all), of one partition (None = all), with start <= offset < end."""

    reasons: frozenset[str] = frozenset()
    partition: int | None = None
    start: int = 0
    end: int = 2**63 - 1

    def has(self, letter: Letter) -> bool:
        return letter.reason in (self.reasons or ALL_REASONS) and self.start <= letter.offset < self.end


@dataclass(slots=True)
class Overview:
    """Counts of all letters by reason, and the newest of the chosen ones."""

    counts: Counter[str] = field(default_factory=Counter)
    newest: deque[Letter] = field(default_factory=deque)


async def show(settings: Settings, choice: Choice, limit: int) -> Overview:
    """Read the whole dead letter topic. Raises `DeadLetterError` when there is none."""
    overview = Overview(newest=deque(maxlen=limit))
    async with consumer_client(settings) as consumer:
        consumer.assign(await _partitions(settings, choice))
        async for record in records_to_end(consumer):
            letter = Letter.of(record)
            overview.counts[letter.reason] += 1
            if choice.has(letter):
                overview.newest.append(letter)
    return overview


def tables(overview: Overview, *, with_content: bool) -> tuple[Table, Table]:
    """Both as tables whose cells are plain text: what a sender wrote can't steer the terminal."""
    counts = Table("reason", "records", title="dead letters")
    for reason, count in overview.counts.most_common():
        counts.add_row(Text(reason), str(count))
    letters = Table("place", "key", "reason", "error", "origin", "bytes", "content" if with_content else "shape")
    for letter in overview.newest:
        value = letter.value or b""
        content = _escaped(value, SHOWN_CONTENT_BYTES) if with_content else shape(value)
        cells = (f"{letter.partition}@{letter.offset}", _escaped(letter.key or b"", SHOWN_BYTES), letter.reason)
        about = (_escaped(letter.text("dlq.error").encode(), SHOWN_CONTENT_BYTES), letter.origin, str(len(value)))
        letters.add_row(*[Text(cell) for cell in (*cells, *about, content)])
    return counts, letters


def shape(value: bytes) -> str:
    """The start of a record with every letter as x and every digit as 0: how it is built, not what it says."""
    text = _escaped(value, SHOWN_BYTES)
    return re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", text))


def _escaped(value: bytes, limit: int) -> str:
    text = value[:limit].decode("utf-8", "replace")
    readable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return readable + ("..." if len(value) > limit else "")


# ---- replay


async def replay(settings: Settings, choice: Choice) -> Counter[str]:
    """Send the chosen letters again, original key and bytes, to the submit topic; returns how many of each reason.

    What an earlier replay sent is left out. Progress is committed after each acknowledged chunk: a crash in between
    repeats at most one chunk, and so may two replays at the same time. Raises `DeadLetterError`, or the broker's
    `KafkaError`.
    """
    partitions = await _partitions(settings, choice)
    group = f"{settings.group_id}-dlq-replay"
    sent: Counter[str] = Counter()
    async with consumer_client(settings, group) as consumer, producer_client(settings) as producer:
        consumer.assign(partitions)
        commits = await committed(consumer, partitions)
        for partition in partitions:
            done = Replayed.committed(commits[partition]) if partition in commits else Replayed()
            sent += await _replay_partition(consumer, _Sender(settings, producer), partition, choice, done)
    return sent


class Replayed:
    """Per reason, the half-open ranges of offsets of one partition that replays have gone through."""

    def __init__(self, text: str = "") -> None:
        self._ranges: dict[str, list[tuple[int, int]]] = (
            msgspec.json.decode(text, type=dict[str, list[tuple[int, int]]]) if text else {}
        )

    @classmethod
    def committed(cls, commit: OffsetAndMetadata) -> "Replayed":
        """From a commit of `replay`, or one that a person made with Kafka's tools: then all below it counts as done."""
        replayed = cls(commit.metadata)
        if not commit.metadata and commit.offset > 0:
            for reason in ALL_REASONS:
                replayed.add(reason, 0, commit.offset)
        return replayed

    def has(self, reason: str, offset: int) -> bool:
        return any(start <= offset < end for start, end in self._ranges.get(reason, ()))

    def add(self, reason: str, start: int, end: int) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._ranges.get(reason, ()), (start, end)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self._ranges[reason] = merged

    def __str__(self) -> str:
        return msgspec.json.encode(self._ranges).decode()


async def _replay_partition(
    consumer: AIOKafkaConsumer, sender: "_Sender", partition: TopicPartition, choice: Choice, done: Replayed
) -> Counter[str]:
    consumer.assign([partition])
    first = (await consumer.beginning_offsets([partition]))[partition]
    start = max(first, choice.start)
    sent: Counter[str] = Counter()
    chunk: list[Letter] = []

    async def settle(end: int) -> None:
        await sender.send(chunk)
        chunk.clear()
        for reason in choice.reasons or ALL_REASONS:
            done.add(reason, start if start > first else 0, end)
        if len(str(done)) > LONGEST_PROGRESS:
            raise DeadLetterError("too many separate ranges were replayed: replay a range that joins them")
        await consumer.commit({partition: (end, str(done))})

    consumer.seek(partition, start)
    async for record in records_to_end(consumer):
        letter = Letter.of(record)
        if choice.has(letter) and not done.has(letter.reason, letter.offset):
            chunk.append(letter)
            sent[letter.reason] += 1
        if len(chunk) == CHUNK:
            await settle(letter.offset + 1)
    end = min(choice.end, await consumer.position(partition))
    if end > start:
        await settle(end)
    return sent


class _Sender:
    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self._topic = topics.SUBMIT.with_prefix(settings.topic_prefix).name
        self._producer = producer

    async def send(self, letters: Collection[Letter]) -> None:
        """Return when the broker has all of them."""
        on_their_way = [await self._send(letter) for letter in letters]
        await asyncio.gather(*on_their_way)

    async def _send(self, letter: Letter) -> asyncio.Future[Any]:
        headers = [(name, value) for name, value in letter.headers.items() if not name.startswith("dlq.")]
        headers.append((REPLAYED_HEADER, str((letter.number(REPLAYED_HEADER) or 0) + 1).encode()))
        future: asyncio.Future[Any] = await self._producer.send(
            self._topic,
            letter.value,
            key=letter.key,
            # Without a key the partition is the producer's whim; with one, murmur2 finds the original again.
            partition=letter.number("dlq.original.partition") if letter.key is None else None,
            timestamp_ms=letter.number("dlq.original.timestamp"),  # it guards the event time, as at the first try
            headers=headers,
        )
        return future


async def _partitions(settings: Settings, choice: Choice) -> list[TopicPartition]:
    name = topics.DEAD_LETTERS.with_prefix(settings.topic_prefix).name
    async with admin_client(settings) as admin:
        count = (await topics.partition_counts(admin)).get(name, 0)
    if not count:
        raise DeadLetterError(f"no topic {name}: `portwatch topics create` makes it")
    if choice.partition is not None and not 0 <= choice.partition < count:
        raise DeadLetterError(f"partition: {choice.partition}: {name} has 0 to {count - 1}")
    numbers = range(count) if choice.partition is None else [choice.partition]
    return [TopicPartition(name, number) for number in numbers]
