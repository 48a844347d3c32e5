"""Whatever is sent to a worker, it goes on: nothing crashes or stalls it, and every submit is accounted for."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import NewTopic

from streams import topics
from streams.contract import MAX_RECORD_BYTES
from streams.kafka import MOST_REQUEST_BYTES, admin_client, producer_client
from streams.settings import Settings, load_settings
from streams.worker.codec import ARROW_STREAM, MAX_LINES, NDJSON
from streams.worker.outbox import KEPT_BYTES
from streams.worker.worker import Worker
from tests.running import records, serving
from tests.servers import ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NOW_MS = 1_795_478_400_000
KEY = b"10690010"
JSON = b"application/json"
MB = 1_000_000


@pytest.fixture
def settings(kafka: ApacheKafka, topic_prefix: str, tmp_path: Path) -> Settings:
    (tmp_path / "ports.jsonl").write_text('{"access_port": "10690010", "lessee_id": "L1", "lessee_name": "某某"}\n')
    return load_settings(
        bootstrap_servers=(kafka.bootstrap,),
        topic_prefix=topic_prefix,
        group_id=f"{topic_prefix}workers",
        partitions=1,
        checkpoint_interval_s=0.5,
        registry_dir=tmp_path,
        http_port=0,
    )


def submit(number: int) -> bytes:
    return json.dumps({"event_id": f"e{number}", "event_time_ms": NOW_MS + number, "access_port": "10690010"}).encode()


async def send(settings: Settings, *values: bytes | None, content_type: bytes = JSON, key: bytes | None = KEY) -> None:
    """To the topic of submits, each in a record batch of its own: aiokafka's `send` takes less than a broker does."""
    async with producer_client(settings, max_batch_size=MOST_REQUEST_BYTES) as producer:
        for value in values:
            await _send(producer, settings, value, content_type, key)


async def _send(
    producer: AIOKafkaProducer, settings: Settings, value: bytes | None, content_type: bytes, key: bytes | None
) -> None:
    batch = producer.create_batch()
    batch.append(key=key, value=value, timestamp=NOW_MS, headers=[("content-type", content_type)])
    await (await producer.send_batch(batch, settings.topic_prefix + topics.SUBMIT.name, partition=0))


async def until_all_is_read(worker: Worker, settings: Settings) -> Any:
    """The tally of the partition once a checkpoint holds all of it."""
    async with asyncio.timeout(120):
        while not (view := worker.views.get(0)) or not view.end_offset or view.lag or not view.is_caught_up:
            await asyncio.sleep(0.1)
    await worker.checkpoint()
    assert view.tally.difference == 0
    return view.tally


def reasons(letters: list[ConsumerRecord]) -> Counter[str]:
    return Counter(dict(letter.headers)["dlq.reason"].decode() for letter in letters)


async def test_a_letter_that_its_topic_would_refuse_is_cut_and_says_so(settings: Settings) -> None:
    async with admin_client(settings) as admin:
        large = {"max.message.bytes": str(12 * MB)}
        await admin.create_topics([NewTopic(settings.topic_prefix + topics.SUBMIT.name, 1, 1, topic_configs=large)])
    await topics.create(settings)
    text, noise = b'{"text":"' + b"x" * 10 * MB + b'"}', b"\xff" * 2 * MB
    await send(settings, submit(1), text, submit(2))
    await send(settings, noise, content_type=ARROW_STREAM)
    await send(settings, b"bad", key=b"k" * 3 * MB)
    await send(settings, b"bad", content_type=b"a/" + b"b" * 3 * MB)
    await send(settings, submit(3))

    async with serving(settings) as (worker, _):
        tally = await until_all_is_read(worker, settings)

    assert (tally.submits_in, tally.counted, sum(tally.rejected.values())) == (7, 3, 4)
    letters = await records(settings, topics.DEAD_LETTERS)
    assert [
        (letter.key, letter.value, dict(letter.headers).get("dlq.original.bytes"), "content-type" in dict(letter.headers))
        for letter in letters
    ] == [
        (KEY, text[:KEPT_BYTES], str(len(text)).encode(), False),
        (KEY, noise[:KEPT_BYTES], str(len(noise)).encode(), False),
        (None, b"bad", b"3", False),
        (KEY, b"bad", b"3", False),
    ]
    assert dict(letters[0].headers)["dlq.original.sha256"].decode() == hashlib.sha256(text).hexdigest()
    assert reasons(letters) == {"too-large": 1, "bad-arrow": 1, "not-json": 2}


async def test_the_largest_record_that_a_topic_takes_is_a_whole_letter(settings: Settings) -> None:
    await topics.create(settings)
    block = b"\xff" * (topics.USUAL_LARGEST_BYTES - 140)  # so much is record batch, key and header; a letter has more
    await send(settings, block, content_type=ARROW_STREAM)

    async with serving(settings) as (worker, _):
        await until_all_is_read(worker, settings)

    [letter] = await records(settings, topics.DEAD_LETTERS)
    assert letter.value == block
    assert dict(letter.headers)["content-type"] == ARROW_STREAM
    assert "dlq.original.bytes" not in dict(letter.headers)


async def test_a_record_of_nothing_is_a_letter(settings: Settings) -> None:
    await topics.create(settings)
    await send(settings, None, b"", key=None)
    await send(settings, None)

    async with serving(settings) as (worker, _):
        tally = await until_all_is_read(worker, settings)

    assert tally.rejected == {"empty": 3}
    letters = await records(settings, topics.DEAD_LETTERS)
    assert [(letter.key, letter.value) for letter in letters] == [(None, b""), (None, b""), (KEY, None)]
