"""The dead letter queue for people: what was rejected and why, and sending it again once the reason is gone.

Content stays hidden unless asked for: a rejected submit holds what a good one does. What is repaired is either what
judged the record, and `replay` sends it unchanged, or the record itself, in a file that `export` wrote. `replay` keeps
its progress per reason in the offsets of a consumer group of its own, in one transaction with what it sends: whatever
dies, and however many replays there are, each letter is sent once.
"""

import asyncio
import os
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from msgspec import Meta, Struct
from rich.table import Table
from rich.text import Text

from streams import topics
from streams.contract import CUT_HEADER, REPLAYED_HEADER, RejectReason, text_or_bytes
from streams.kafka import (
    NoTransactionsError,
    admin_client,
    committed,
    consumer_client,
    records_to_end,
    transactional_producer,
)
from streams.settings import Settings

OTHER = "other"
"""Reason of a record that names none of ours."""
ALL_REASONS = frozenset([*RejectReason, OTHER])
SHOWN_BYTES = 48
SHOWN_CONTENT_BYTES = 400
CHUNK = 500
CHUNK_BYTES = 4 * 2**20
"""Of the letters of one transaction, unless a single one is larger: well under a second of work, of the 10 s it has."""
SURELY_KEPT_MS = 6 * topics.DAY_MS
"""A day less than the topic of submits keeps its records at least."""
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

    @property
    def place(self) -> str:
        return f"{self.partition}@{self.offset}"

    @property
    def is_whole(self) -> bool:
        """Whether it holds all of what was rejected."""
        return CUT_HEADER not in self.headers and self.reason != RejectReason.CORRUPT_BATCH

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
    content_column = "content" if with_content else "shape"
    letters = Table("place", "key", "reason", "error", "origin", "replayed", "bytes", content_column)
    for letter in overview.newest:
        value = letter.value or b""
        content = _escaped(value, SHOWN_CONTENT_BYTES) if with_content else shape(value)
        cells = (letter.place, _escaped(letter.key or b"", SHOWN_BYTES), letter.reason)
        about = (_escaped(letter.text("dlq.error").encode(), SHOWN_CONTENT_BYTES), letter.origin)
        size = str(len(value)) if letter.is_whole else f"{len(value)} of {letter.text(CUT_HEADER)}"
        replayed = str(letter.number(REPLAYED_HEADER) or "")
        letters.add_row(*[Text(cell) for cell in (*cells, *about, replayed, size, content)])
    return counts, letters


def shape(value: bytes) -> str:
    """The start of a record with every letter as x and every digit as 0: how it is built, not what it says."""
    text = _escaped(value, SHOWN_BYTES)
    return re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", text))


def _escaped(value: bytes, limit: int) -> str:
    text = value[:limit].decode("utf-8", "replace")
    readable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return readable + ("..." if len(value) > limit else "")


# ---- repair


class Repair(Struct, kw_only=True, omit_defaults=True):
    """A line of what `export` writes, with the letter's value for a person to correct."""

    letter: Annotated[str, Meta(pattern="^[0-9]{1,9}@[0-9]{1,18}$")]  # where it lies: partition@offset
    reason: str = ""
    error: str = ""
    value: str | None = None
    value_base64: bytes | None = None  # of what is not UTF-8

    @classmethod
    def of(cls, letter: Letter) -> "Repair":
        text, binary = text_or_bytes(letter.value)
        error = letter.text("dlq.error")
        return cls(letter=letter.place, reason=letter.reason, error=error, value=text, value_base64=binary)

    @property
    def content(self) -> bytes:
        return (self.value or "").encode() if self.value_base64 is None else self.value_base64


async def export(settings: Settings, choice: Choice, file: Path) -> int:
    """Write the chosen letters that were not replayed, a `Repair` a line, for nobody else to read; returns how many.

    Letters that were cut are left out. Raises `DeadLetterError`, or OSError for the file.
    """
    partitions = await _partitions(settings, choice)
    count = 0
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as lines:
        async with consumer_client(settings, _group(settings)) as consumer:
            progress = await _progress(consumer, partitions)
            for partition in partitions:
                async for letter in _letters(consumer, partition, choice):
                    if letter.is_whole and not progress[partition].has(letter.reason, letter.offset):
                        lines.write(msgspec.json.encode(Repair.of(letter)) + b"\n")
                        count += 1
    return count


def repaired(file: Path) -> dict[str, bytes]:
    """The values of such a file by the place of their letters. Raises `DeadLetterError` with the line, or OSError."""
    values: dict[str, bytes] = {}
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                repair = msgspec.json.decode(line, type=Repair)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DeadLetterError(f"{file} line {number}: {error}") from None
            if repair.letter in values:
                raise DeadLetterError(f"{file} line {number}: letter {repair.letter} comes a second time")
            values[repair.letter] = repair.content
    return values


# ---- replay


@dataclass(slots=True)
class Replay:
    """What a replay did: how many letters of each reason it sent, and how many it left because they were cut."""

    sent: Counter[str] = field(default_factory=Counter)
    cut: int = 0


async def replay(settings: Settings, choice: Choice, repairs: Mapping[str, bytes] | None = None) -> Replay:
    """Send the chosen letters again, original key and bytes, to the submit topic.

    With `repairs` only the letters at these places, each with its new value. What an earlier replay sent is left out:
    letters and progress are committed together, and a replay fences the one before it. One that is rejected once more
    is a new letter, for a next replay to send. Raises `DeadLetterError`.
    """
    partitions = await _partitions(settings, choice)
    group = _group(settings)
    done = Replay()
    try:
        # The producer first: once it runs nobody else commits progress, so that what is read then is the last word.
        async with transactional_producer(settings, group) as producer, consumer_client(settings, group) as consumer:
            progress = await _progress(consumer, partitions)
            for partition in partitions:
                sender = _Sender(settings, producer, partition, progress[partition])
                await _replay_partition(consumer, sender, choice, repairs, done)
    except KafkaError as error:  # which one a fenced producer gets depends on what it was about to do
        raise DeadLetterError(
            f"broken off after {done.sent.total()} letters by another replay of {group}, or by Kafka "
            f"({type(error).__name__}): start it again for the rest, none is sent twice"
        ) from error
    except NoTransactionsError as error:
        raise DeadLetterError(f"{error}: without them a replay could send a letter twice") from None
    return done


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
        if not commit.metadata:
            for reason in ALL_REASONS:
                replayed.add(reason, 0, commit.offset)
        return replayed

    def has(self, reason: str, offset: int) -> bool:
        return any(start <= offset < end for start, end in self._ranges.get(reason, ()))

    def add(self, reason: str, start: int, end: int) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._ranges.get(reason, ()), (start, end)]):
            if low == high:
                continue
            if merged and low <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self._ranges[reason] = merged

    def __str__(self) -> str:
        return msgspec.json.encode(self._ranges).decode()


async def _replay_partition(
    consumer: AIOKafkaConsumer,
    sender: "_Sender",
    choice: Choice,
    repairs: Mapping[str, bytes] | None,
    done: Replay,
) -> None:
    partition, progress = sender.partition, sender.progress
    first = (await consumer.beginning_offsets([partition]))[partition]
    # Of each reason, from where on no letter was left: all of it until the next one sent is then gone through.
    begin = dict.fromkeys(ALL_REASONS, choice.start if choice.start > first else 0)
    chunk: list[Letter] = []

    async def settle() -> None:
        await sender.send(chunk)
        done.sent.update(letter.reason for letter in chunk)
        chunk.clear()

    async for letter in _letters(consumer, partition, choice):
        if progress.has(letter.reason, letter.offset):
            continue
        if repairs is not None and letter.place not in repairs:
            begin[letter.reason] = letter.offset + 1
            continue
        progress.add(letter.reason, begin[letter.reason], letter.offset + 1)
        if repairs is not None:
            chunk.append(replace(letter, value=repairs[letter.place]))
        elif letter.is_whole:
            chunk.append(letter)
        else:
            done.cut += 1
        if len(chunk) == CHUNK or sum(len(letter.value or b"") for letter in chunk) > CHUNK_BYTES:
            await settle()
    if chunk:
        await settle()


async def _letters(consumer: AIOKafkaConsumer, partition: TopicPartition, choice: Choice) -> AsyncIterator[Letter]:
    """The chosen letters of a partition, of those that are there now."""
    consumer.assign([partition])
    first = (await consumer.beginning_offsets([partition]))[partition]
    consumer.seek(partition, max(first, choice.start))
    async for record in records_to_end(consumer):
        if choice.has(letter := Letter.of(record)):
            yield letter


class _Sender:
    """Sends letters of one partition to the submit topic, each chunk with its progress in one transaction."""

    def __init__(
        self, settings: Settings, producer: AIOKafkaProducer, partition: TopicPartition, progress: Replayed
    ) -> None:
        self._topic = topics.SUBMIT.with_prefix(settings.topic_prefix).name
        self._group = _group(settings)
        self._producer = producer
        self.partition = partition
        self.progress = progress

    async def send(self, letters: Sequence[Letter]) -> None:
        """Return when the broker has all of them, and the progress."""
        progress = OffsetAndMetadata(letters[-1].offset + 1, str(self.progress))
        if len(progress.metadata) > LONGEST_PROGRESS:
            raise DeadLetterError("replayed and other letters lie in too many turns: replay those in between as well")
        async with self._producer.transaction():
            on_their_way = [await self._send(letter) for letter in letters]
            await asyncio.gather(*on_their_way)  # a commit would go through without one that is refused
            await self._producer.send_offsets_to_transaction({self.partition: progress}, self._group)

    async def _send(self, letter: Letter) -> asyncio.Future[Any]:
        headers = [(name, text) for name, text in letter.headers.items() if not name.startswith("dlq.")]
        headers.append((REPLAYED_HEADER, str((letter.number(REPLAYED_HEADER) or 0) + 1).encode()))
        future: asyncio.Future[Any] = await self._producer.send(
            self._topic,
            letter.value,
            key=letter.key,
            # Without a key the partition is the producer's whim; with one, murmur2 finds the original again.
            partition=letter.number("dlq.original.partition") if letter.key is None else None,
            timestamp_ms=_timestamp_ms(letter),
            headers=headers,
        )
        return future


def _timestamp_ms(letter: Letter) -> int | None:
    """The original one guards the event time, as at the first try; but retention would take away what is too old."""
    original_ms = letter.number("dlq.original.timestamp")
    return None if original_ms is None else max(original_ms, int(time.time() * 1_000) - SURELY_KEPT_MS)


def _group(settings: Settings) -> str:
    """Consumer group and transactional id of replays: one at a time."""
    return f"{settings.group_id}-dlq-replay"


async def _progress(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Replayed]:
    commits = await committed(consumer, partitions)
    return {
        partition: Replayed.committed(commits[partition]) if partition in commits else Replayed()
        for partition in partitions
    }


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
