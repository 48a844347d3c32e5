"""The state of a partition as a checkpoint on the state topic, and back.

A checkpoint is a run of chunks (zstd, numbered, of one id) on the partition of the state topic that has the input
partition's number. The commit of the input offset carries a pointer to it in its metadata. The broker refuses the
commit of a worker that no longer owns the partition, so a zombie's chunks are garbage that nobody points to. A pointer
that can't be followed to the last byte is an error, never half a state.
"""

import asyncio
import secrets
import zlib
from collections.abc import Awaitable, Iterable
from typing import Any

import cramjam
import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.types import TP

from detectors.pipeline import PartitionState, Pipeline
from streams import topics
from streams.kafka import consumer_client
from streams.settings import Settings

STATE_VERSION = 1
"""Raised whenever the layout of a state changes; a checkpoint of another version is refused, never misread."""

CHUNK_BYTES = 900_000
"""Fits a record under Kafka's default limit of 1 MB, so neither topic nor client needs other settings."""

_ZSTD_LEVEL = 1


class CheckpointError(Exception):
    """A checkpoint can't be read back: what is wrong, and what to do about it."""


class Pointer(msgspec.Struct, frozen=True):
    """What a commit's metadata says about the checkpoint that belongs to its offset. As JSON well under 4,096 bytes."""

    id: str
    first: int  # offsets on the state topic, inclusive
    last: int
    chunks: int
    crc: int  # of the compressed state
    version: int = STATE_VERSION


def _to_plain(value: Any) -> Any:  # noqa: ANN401 - msgspec asks for anything that it doesn't know
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "data": value.tobytes()}
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} in a state")


def _from_plain(_: type, value: Any) -> Any:  # noqa: ANN401 - as above; the only such type in a state is the array
    return np.frombuffer(bytearray(value["data"]), value["dtype"]).reshape(value["shape"])


def frozen(state: PartitionState) -> bytes:
    """The state as MessagePack: 0.15 s for 100,000 ports and 300,000 groups (142 MB)."""
    return msgspec.msgpack.encode({"version": STATE_VERSION, "state": state}, enc_hook=_to_plain)


def compressed(plain: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(plain, level=_ZSTD_LEVEL))


def pack(state: PartitionState) -> bytes:
    """The state as compressed MessagePack."""
    return compressed(frozen(state))


def unpack(packed: bytes, pipeline: Pipeline) -> PartitionState:
    """The state again; raises CheckpointError if it is not one, or not of this version."""
    try:
        plain = msgspec.msgpack.decode(bytes(cramjam.zstd.decompress(packed)))
        if plain["version"] != STATE_VERSION:
            raise CheckpointError(
                f"state version {plain['version']}, this portwatch reads {STATE_VERSION}: "
                "run the version that wrote it, or start without it"
            )
        state = msgspec.convert(plain["state"], PartitionState, dec_hook=_from_plain)
        for detector in pipeline.detectors:
            blank = detector.start()
            held = state.detectors.get(detector.name)
            state.detectors[detector.name] = (
                blank if held is None else msgspec.convert(held, type(blank), dec_hook=_from_plain)
            )
    except (cramjam.DecompressionError, msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"not a portwatch state: {error}") from error
    return state


class Checkpoints:
    """Writes and reads the checkpoints of one state topic."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, pipeline: Pipeline) -> None:
        self._settings = settings
        self._producer = producer
        self._pipeline = pipeline
        self._topic = topics.STATE.with_prefix(settings.topic_prefix).name

    async def write(self, partition: int, packed: bytes) -> Pointer:
        """Send the chunks of a packed state and wait until the broker has all of them."""
        identity = secrets.token_hex(8)
        pieces = [packed[at : at + CHUNK_BYTES] for at in range(0, len(packed), CHUNK_BYTES)]
        sent: list[Awaitable[Any]] = [
            await self._producer.send(
                self._topic,
                value=piece,
                key=f"{partition}/{index}".encode(),
                partition=partition,
                headers=[("id", identity.encode()), ("version", str(STATE_VERSION).encode())],
            )
            for index, piece in enumerate(pieces)
        ]
        offsets = [(await future).offset for future in sent]
        return Pointer(identity, min(offsets), max(offsets), len(pieces), zlib.crc32(packed))

    async def follow(self, tp: TP, offset: int, metadata: str) -> PartitionState:
        """The state that a commit points to; raises CheckpointError that says how to go on without it."""
        try:
            return await self.read(tp.partition, msgspec.json.decode(metadata, type=Pointer))
        except (CheckpointError, msgspec.MsgspecError) as error:
            why = error if isinstance(error, CheckpointError) else f"the commit of {tp} holds no pointer: {error}"
            raise CheckpointError(
                f"{why}. To go on without what was known of this partition: stop the workers, then "
                f"kafka-consumer-groups.sh --bootstrap-server {','.join(self._settings.bootstrap_servers)} "
                f"--group {self._settings.group_id} --topic {tp.topic}:{tp.partition} "
                f"--reset-offsets --to-offset {offset} --execute"
            ) from error

    async def read(self, partition: int, pointer: Pointer) -> PartitionState:
        """The state behind a pointer; raises CheckpointError if a byte of it is missing."""
        async with consumer_client(self._settings) as consumer:
            pieces = await self._fetch(consumer, TopicPartition(self._topic, partition), pointer)
        packed = b"".join(pieces)
        if len(pieces) != pointer.chunks or zlib.crc32(packed) != pointer.crc:
            raise CheckpointError(
                f"checkpoint {pointer.id} of partition {partition} is damaged: {len(pieces)} of {pointer.chunks} "
                f"chunks at offsets {pointer.first}-{pointer.last} of {self._topic}"
            )
        # Seconds for a large state, and heartbeats wait for the loop: at most a third of them in one piece there.
        return await asyncio.to_thread(unpack, packed, self._pipeline)

    async def _fetch(self, consumer: AIOKafkaConsumer, tp: TopicPartition, pointer: Pointer) -> list[bytes]:
        consumer.assign([tp])
        first, end = (await consumer.beginning_offsets([tp]))[tp], (await consumer.end_offsets([tp]))[tp]
        if not first <= pointer.first <= pointer.last < end:
            raise CheckpointError(
                f"checkpoint {pointer.id} of partition {tp.partition} is gone: it stood at offsets "
                f"{pointer.first}-{pointer.last} of {tp.topic}, which begins at {first} and ends at {end} "
                "(was it made anew, or is its retention too short?)"
            )
        consumer.seek(tp, pointer.first)
        pieces: list[bytes] = []
        while await consumer.position(tp) <= pointer.last:
            fetched = await consumer.getmany(tp, timeout_ms=1_000)
            pieces += _pieces(fetched.get(tp, ()), pointer)
        return pieces


def _pieces(records: Iterable[Any], pointer: Pointer) -> list[bytes]:
    """The chunks of this checkpoint; others may stand between them."""
    return [
        record.value
        for record in records
        if record.offset <= pointer.last and dict(record.headers).get("id") == pointer.id.encode()
    ]
