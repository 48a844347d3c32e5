"""The state of a partition as a checkpoint on the state topic, and back.

A checkpoint is a chain of segments: a whole image of the state and what changed since. A segment is a run of chunks of
one id on the partition of the state topic that has the input partition's number. The commit of the input offset carries
a pointer to the chain in its metadata. The broker refuses the commit of a worker that no longer owns the partition, so
a zombie's chunks are garbage that nobody points to. A pointer that can't be followed to the last byte is an error,
never half a state.
"""

import asyncio
import secrets
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.structs import RecordMetadata
from faust.types import TP

from detectors.pipeline import PartitionState, Pipeline
from streams import topics
from streams.kafka import consumer_client, send
from streams.settings import Settings
from streams.worker.image import STATE_VERSION, Digests, ImageError, Look, NewerStateError, Pages, unpack

CHUNK_BYTES = 900_000
"""Fits a record under Kafka's default limit of 1 MB, so neither topic nor client needs other settings."""

MOST_SEGMENTS = 24
"""Of a chain; then one takes the place of all but the whole. A pointer to so many takes 1.7 kB, and a broker stores
4,096 bytes beside an offset."""

MOST_CHANGED = 1.0
"""A chain begins anew when what changed has grown to this part of the whole: no restore reads more than twice that."""

REWRITE_S = 3_600.0
"""And so often at least, also when a partition stands still, or retention would take its beginning away."""


class CheckpointError(Exception):
    """A checkpoint can't be read back: what is wrong, and what to do about it."""


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Where one checkpoint's bytes stand on the state topic."""

    id: str
    first: int  # offsets, inclusive
    last: int
    chunks: int
    crc: int  # of the chunks together


class Pointer(msgspec.Struct, frozen=True):
    """What a commit's metadata says about the checkpoint that belongs to its offset."""

    segments: tuple[Segment, ...]
    version: int = STATE_VERSION

    @classmethod
    def parse(cls, metadata: str) -> "Pointer":
        """Raises NewerStateError, or msgspec.MsgspecError for what is no pointer."""
        version = msgspec.json.decode(metadata, type=_Versioned).version
        if version > STATE_VERSION:
            raise NewerStateError(f"state version {version}, this portwatch reads up to {STATE_VERSION}")
        if version < _FIRST_CHAIN:
            old = msgspec.json.decode(metadata, type=_SingleSegment)
            return cls((Segment(old.id, old.first, old.last, old.chunks, old.crc),), version)
        return msgspec.json.decode(metadata, type=cls)

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()


class _Versioned(msgspec.Struct):
    version: int


_FIRST_CHAIN = 2


class _SingleSegment(msgspec.Struct):
    """The pointer of version 1."""

    id: str
    first: int
    last: int
    chunks: int
    crc: int


@dataclass(slots=True)
class Chain:
    """The segments of one partition that make its state, as the worker that writes them knows them."""

    pages: Pages = field(default_factory=Pages)
    segments: tuple[Segment, ...] = ()
    whole: Digests = field(default_factory=dict)  # of the first segment
    whole_bytes: int = 0
    changed_bytes: int = 0  # of the other segments
    began_s: float = field(default_factory=time.monotonic)

    @property
    def is_old(self) -> bool:
        return time.monotonic() - self.began_s >= REWRITE_S

    def look(self, state: PartitionState) -> Look:
        """What the next segment has to hold; the state must stand still."""
        if self.is_old or self.changed_bytes > MOST_CHANGED * self.whole_bytes:
            self.begin_anew()
        elif len(self.segments) >= MOST_SEGMENTS:
            self.pages.held, self.segments, self.changed_bytes = self.whole, self.segments[:1], 0
        return self.pages.look(state)

    def begin_anew(self) -> None:
        """The next segment is the whole."""
        self.pages.held, self.segments = {}, ()

    def stands(self, written: "Written") -> bool:
        """Whether the topic still has all of it, as its answer to the next segment shows.

        It may have been truncated, or made anew: then its offsets begin at 0 again.
        """
        first = (*self.segments, written.segment)[0].first
        is_behind = not self.segments or self.segments[-1].last < written.segment.first
        return written.topic_begins <= first and is_behind

    def pointer(self, segment: Segment) -> Pointer:
        """To the chain with one more segment."""
        return Pointer((*self.segments, segment))

    def extend(self, segment: Segment, size: int, digests: Digests) -> None:
        """The segment is durable, and pointed to."""
        if self.segments:
            self.changed_bytes += size
        else:
            self.whole, self.whole_bytes, self.changed_bytes, self.began_s = digests, size, 0, time.monotonic()
        self.segments += (segment,)
        self.pages.held = digests


class Written(NamedTuple):
    """A segment that the broker has."""

    segment: Segment
    topic_begins: int  # offset of its partition's first record then; 0 if not told


class Held(NamedTuple):
    """A checkpoint read back."""

    state: PartitionState
    began_ms: int  # Kafka's time of its oldest segment: from then on retention counts
    written_ms: int  # and of its newest
    size_bytes: int  # of all its segments


class Checkpoints:
    """Writes and reads the checkpoints of one state topic."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, pipeline: Pipeline) -> None:
        self._settings = settings
        self._producer = producer
        self._pipeline = pipeline
        self._topic = topics.STATE.with_prefix(settings.topic_prefix).name

    async def write(self, partition: int, packed: bytes) -> Written:
        """Send the chunks of a segment and wait until the broker has all of them."""
        identity = secrets.token_hex(8)
        pieces = [packed[at : at + CHUNK_BYTES] for at in range(0, len(packed), CHUNK_BYTES)]
        sent = [
            await send(
                self._producer,
                self._topic,
                value=piece,
                key=f"{partition}/{index}".encode(),
                partition=partition,
                headers=[("id", identity.encode()), ("version", str(STATE_VERSION).encode())],
            )
            for index, piece in enumerate(pieces)
        ]
        acknowledged: list[RecordMetadata] = [await future for future in sent]
        offsets = [one.offset for one in acknowledged]
        segment = Segment(identity, min(offsets), max(offsets), len(pieces), zlib.crc32(packed))
        return Written(segment, max(0, *(one.log_start_offset or 0 for one in acknowledged)))

    async def follow(self, tp: TP, offset: int, metadata: str) -> Held:
        """What a commit points to; raises CheckpointError that says how to go on."""
        try:
            return await self.read(tp.partition, Pointer.parse(metadata))
        except NewerStateError as error:
            raise CheckpointError(
                f"partition {tp.partition} was counted by a newer portwatch: {error}. "
                "Upgrade this worker; nothing is lost"
            ) from error
        except (CheckpointError, msgspec.MsgspecError) as error:
            why = error if isinstance(error, CheckpointError) else f"the commit of {tp} holds no pointer: {error}"
            raise CheckpointError(
                f"{why}. To go on without what was known of this partition: stop the workers, then "
                f"kafka-consumer-groups.sh --bootstrap-server {','.join(self._settings.bootstrap_servers)} "
                f"--group {self._settings.group_id} --topic {tp.topic}:{tp.partition} "
                f"--reset-offsets --to-offset {offset} --execute"
            ) from error

    async def read(self, partition: int, pointer: Pointer) -> Held:
        """What is behind a pointer; raises CheckpointError if a byte of it is missing, NewerStateError."""
        tp = TopicPartition(self._topic, partition)
        async with consumer_client(self._settings) as consumer:
            consumer.assign([tp])
            first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
            fetched = [await _fetched(consumer, tp, segment, first, end) for segment in pointer.segments]
        packed = [packed for packed, _ in fetched]
        try:
            # Seconds for a large state, and heartbeats wait for the loop: at most a third of them in one piece there.
            state = await asyncio.to_thread(unpack, packed, self._pipeline)
        except NewerStateError:
            raise
        except ImageError as error:
            raise CheckpointError(f"the checkpoint of partition {partition}: {error}") from error
        times = [written_ms for _, written_ms in fetched]
        return Held(state, min(times), max(times), sum(map(len, packed)))


async def _fetched(
    consumer: AIOKafkaConsumer, tp: TopicPartition, segment: Segment, first: int, end: int
) -> tuple[bytes, int]:
    """The bytes of a segment, and when they were written; `first` and `end` are where its topic begins and ends."""
    place = f"offsets {segment.first}-{segment.last} of {tp.topic}"
    if not first <= segment.first <= segment.last < end:
        raise CheckpointError(
            f"checkpoint {segment.id} of partition {tp.partition} is gone: it stood at {place}, which begins at "
            f"{first} and ends at {end} (was it made anew, or is its retention too short?)"
        )
    consumer.seek(tp, segment.first)
    pieces: list[ConsumerRecord] = []
    while await consumer.position(tp) <= segment.last:
        fetched = await consumer.getmany(tp, timeout_ms=1_000)
        pieces += _pieces(fetched.get(tp, ()), segment)
    packed = b"".join(piece.value for piece in pieces)
    if len(pieces) != segment.chunks or zlib.crc32(packed) != segment.crc:
        raise CheckpointError(
            f"checkpoint {segment.id} of partition {tp.partition} is damaged: {len(pieces)} of {segment.chunks} "
            f"chunks at {place}"
        )
    return packed, min(piece.timestamp for piece in pieces)


def _pieces(records: Iterable[ConsumerRecord], segment: Segment) -> list[ConsumerRecord]:
    """The chunks of this segment; others may stand between them."""
    return [
        record
        for record in records
        if record.offset <= segment.last and dict(record.headers).get("id") == segment.id.encode()
    ]
