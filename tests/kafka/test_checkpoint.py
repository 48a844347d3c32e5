"""A checkpoint on Apache Kafka is read back to the last byte, or not at all."""

import msgspec
import pytest
from faust.types import TP

from detectors.pipeline import Pipeline
from detectors.registry import Registry
from streams import topics
from streams.kafka import producer_client
from streams.settings import load_settings
from streams.worker.checkpoint import MOST_SEGMENTS, Chain, CheckpointError, Checkpoints, Pointer
from streams.worker.image import NewerStateError, pack
from tests.rows import Row, batch
from tests.servers import ApacheKafka
from tests.states import OLD, plain

pytestmark = pytest.mark.kafka


async def test_a_chain_is_read_back_from_among_the_chunks_of_others(
    kafka: ApacheKafka, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.worker.checkpoint.CHUNK_BYTES", 100)
    monkeypatch.setattr("streams.worker.checkpoint.MOST_CHANGED", 100)
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix, partitions=2)
    await topics.create(settings)
    pipeline = Pipeline()
    state, chain = pipeline.start("sms.submit.v1", 1), Chain()
    async with producer_client(settings) as producer:
        checkpoints = Checkpoints(settings, producer, pipeline)
        for turn in range(MOST_SEGMENTS + 2):
            rows = [Row(id=turn * 500 + n, at_ms=turn * 9_000 + n, port=f"1069{n:04d}") for n in range(500)]
            pipeline.step(state, batch(rows), Registry())
            look = chain.look(state)
            content = look.packed()
            await checkpoints.write(1, pack(pipeline.start("zombie", 1)))
            segment, _ = await checkpoints.write(1, content)
            pointer = chain.pointer(segment)
            chain.extend(segment, len(content), look.digests)
            assert len(pointer.segments) == (turn + 1 if turn < MOST_SEGMENTS else turn - MOST_SEGMENTS + 2)
            assert plain((await checkpoints.read(1, pointer)).state) == plain(state)
            assert len(str(pointer)) < 4_096

        first = pointer.segments[0]
        assert first.chunks > 10

        async def with_first(**changes: int) -> None:
            changed = msgspec.structs.replace(first, **changes)
            await checkpoints.read(1, Pointer((changed, *pointer.segments[1:])))

        await with_first(first=first.first - 1)  # the last chunk of the zombie
        with pytest.raises(CheckpointError, match=f"{first.chunks - 1} of {first.chunks} chunks"):
            await with_first(first=first.first + 1)
        with pytest.raises(CheckpointError, match="is damaged"):
            await with_first(crc=first.crc ^ 1)
        with pytest.raises(CheckpointError, match="not a portwatch state"):  # what changed, without what it changed
            await checkpoints.read(1, Pointer(pointer.segments[1:]))
        gone = Pointer((msgspec.structs.replace(segment, last=segment.last + 1),))  # as in a topic made anew
        with pytest.raises(CheckpointError, match=r"is gone: it stood at offsets .* --reset-offsets --to-offset 500 "):
            await checkpoints.follow(TP("sms.submit.v1", 1), 500, str(gone))


async def test_a_checkpoint_of_version_1_is_read(kafka: ApacheKafka, topic_prefix: str) -> None:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix, partitions=2)
    await topics.create(settings)
    async with producer_client(settings) as producer:
        checkpoints = Checkpoints(settings, producer, Pipeline())
        written = msgspec.structs.asdict((await checkpoints.write(1, OLD.read_bytes())).segment)
        metadata = msgspec.json.encode(written | {"version": 1}).decode()
        assert (await checkpoints.follow(TP("sms.submit.v1", 1), 900, metadata)).state.next_offset == 900


async def test_one_of_a_newer_version_is_refused_without_bad_advice(kafka: ApacheKafka, topic_prefix: str) -> None:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix)
    metadata = '{"version": 99, "whatever": [1, 2]}'
    with pytest.raises(NewerStateError):
        Pointer.parse(metadata)
    async with producer_client(settings) as producer:
        with pytest.raises(CheckpointError, match="Upgrade this worker; nothing is lost") as refused:
            await Checkpoints(settings, producer, Pipeline()).follow(TP("sms.submit.v1", 1), 900, metadata)
    assert "reset" not in str(refused.value)
