"""A checkpoint on Apache Kafka is read back to the last byte, or not at all."""

import msgspec
import pytest
from faust.types import TP

from detectors.pipeline import Pipeline
from detectors.registry import Registry
from streams import topics
from streams.kafka import producer_client
from streams.settings import load_settings
from streams.worker.checkpoint import CheckpointError, Checkpoints, pack
from tests.rows import Row, batch
from tests.servers import ApacheKafka

pytestmark = pytest.mark.kafka


async def test_it_is_read_back_from_among_the_chunks_of_others(
    kafka: ApacheKafka, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.worker.checkpoint.CHUNK_BYTES", 100)
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix, partitions=2)
    await topics.create(settings)
    pipeline = Pipeline()
    state = pipeline.start("sms.submit.v1", 1)
    pipeline.step(state, batch([Row(id=n, at_ms=n * 100, port=f"1069{n:04d}") for n in range(500)]), Registry())
    state.next_offset = 500
    packed = pack(state)
    async with producer_client(settings) as producer:
        checkpoints = Checkpoints(settings, producer, pipeline)
        theirs = await checkpoints.write(1, pack(pipeline.start("zombie", 1)))
        ours = await checkpoints.write(1, packed)
        back = await checkpoints.read(1, ours)
        assert pack(back) == packed
        assert ours.chunks > 10
        assert len(msgspec.json.encode(ours)) < 4_096
        wide = msgspec.structs.replace(ours, first=theirs.first)
        assert pack(await checkpoints.read(1, wide)) == packed
        with pytest.raises(CheckpointError, match=f"{ours.chunks - 1} of {ours.chunks} chunks"):
            await checkpoints.read(1, msgspec.structs.replace(ours, first=ours.first + 1))
        with pytest.raises(CheckpointError, match="is damaged"):
            await checkpoints.read(1, msgspec.structs.replace(ours, crc=ours.crc ^ 1))
        gone = msgspec.structs.replace(ours, last=ours.last + 1)  # behind the end, as in a topic made anew
        with pytest.raises(CheckpointError, match=r"is gone: it stood at offsets .* --reset-offsets --to-offset 500 "):
            await checkpoints.follow(TP("sms.submit.v1", 1), 500, msgspec.json.encode(gone).decode())
