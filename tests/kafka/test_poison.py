"""Whatever is sent to a worker, it goes on: nothing crashes or stalls it, and every submit is accounted for."""

import asyncio
import hashlib
import json
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import NewTopic

from detectors.pipeline import Tally
from streams import dlq, topics
from streams.dlq import Choice
from streams.kafka import MOST_REQUEST_BYTES, admin_client, producer_client
from streams.settings import Settings, load_settings
from streams.worker.codec import ARROW_STREAM, MAX_LINES, NDJSON
from streams.worker.outbox import KEPT_BYTES
from streams.worker.worker import Worker
from tests.running import committed, records, serving, worker
from tests.servers import ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

NOW_MS = int(time.time() * 1_000)  # what is too old may be deleted before it is read
KEY = b"10690010"
JSON = b"application/json"
MB = 1_000_000
MOST_MB = 400
"""A worker without work has 130, with this work 208; the rest is room for another order of the same."""


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


async def until_read(it: Worker, submits: int) -> Tally:
    """The tally of the partition once so many submits came in."""
    async with asyncio.timeout(180):
        while not (view := it.views.get(0)) or view.tally.submits_in < submits:  # noqa: ASYNC110 - a view has no event
            await asyncio.sleep(0.1)
    assert (view.tally.submits_in, view.tally.difference) == (submits, 0)
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

    async with serving(settings) as (it, _):
        tally = await until_read(it, 7)

    assert (tally.counted, sum(tally.rejected.values())) == (3, 4)
    letters = await records(settings, topics.DEAD_LETTERS)
    assert [
        (
            letter.key,
            letter.value,
            dict(letter.headers).get("dlq.original.bytes"),
            "content-type" in dict(letter.headers),
        )
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

    async with serving(settings) as (it, _):
        await until_read(it, 1)

    [letter] = await records(settings, topics.DEAD_LETTERS)
    assert letter.value == block
    assert dict(letter.headers)["content-type"] == ARROW_STREAM
    assert "dlq.original.bytes" not in dict(letter.headers)


async def test_a_record_of_nothing_is_a_letter(settings: Settings) -> None:
    await topics.create(settings)
    await send(settings, None, b"", key=None)
    await send(settings, None)

    async with serving(settings) as (it, _):
        tally = await until_read(it, 3)

    assert tally.rejected == {"empty": 3}
    letters = await records(settings, topics.DEAD_LETTERS)
    assert [(letter.key, letter.value) for letter in letters] == [(None, b""), (None, b""), (KEY, None)]


async def test_a_record_that_is_rejected_again_says_how_often_it_was_replayed(settings: Settings) -> None:
    await topics.create(settings)
    await send(settings, b"bad")
    sent = []
    async with serving(settings) as (it, _):
        for rejected in (1, 2, 3):
            async with asyncio.timeout(60):
                while len(await records(settings, topics.DEAD_LETTERS)) < rejected:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.1)
            sent.append((await dlq.replay(settings, Choice())).sent)
        tally = await until_read(it, 4)

    assert sent == [{"not-json": 1}] * 3  # one new letter each time: a person sees it come back
    assert tally.rejected == {"not-json": 4}
    letters = await records(settings, topics.DEAD_LETTERS)
    assert [dict(letter.headers).get("dlq.replayed") for letter in letters] == [None, b"1", b"2", b"3"]


# ---- floods


def arrow(columns: dict[str, pa.Array], compression: str | None = None) -> bytes:
    batch, sink = pa.record_batch(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def zip_bomb(size: int) -> bytes:
    """An Arrow block of a few kB with a column of one text that is `size` bytes when unpacked."""
    offsets = pa.py_buffer(size.to_bytes(8, "little").rjust(16, b"\0"))
    text = pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(b"\0" * size))
    return arrow({"later": text}, "zstd")


def claim(size: int) -> bytes:
    """An Arrow block whose buffer says that it is `size` bytes when unpacked, and is not."""
    block = arrow({"text": pa.array(["x" * 1_000])}, "zstd")
    return block.replace((1_000).to_bytes(8, "little"), size.to_bytes(8, "little"))


async def test_a_flood_of_what_is_bad_is_all_told_in_bounded_memory(settings: Settings, tmp_path: Path) -> None:
    """Rejects by the record and by the line, blocks that are cut off, bombs: each is told, and good ones counted."""
    await topics.create(settings)
    lines = b"\n".join([submit(1), *[b"bad"] * 10_000, submit(2)])
    nothing = pa.nulls(MAX_LINES)
    of_nothing = arrow({"event_id": nothing, "text": nothing})
    good = arrow({"event_id": pa.array(["e3"]), "event_time_ms": [NOW_MS], "access_port": pa.array(["10690010"])})
    expected = Counter[str]()
    log = tmp_path / "worker.log"
    with worker(settings, log) as process:
        await send(settings, *[b"bad\n" * 200_000, b"\n" * MB] * 20, content_type=NDJSON)
        expected["too-large"] += 40
        await send(settings, *[lines] * 4, content_type=NDJSON)
        expected["not-json"] += 40_000
        await send(settings, zip_bomb(1_000 * MB), *map(claim, [2**33, 2**46, 2**62]), content_type=ARROW_STREAM)
        await send(settings, good[:-20], b"\xff" * MB, content_type=ARROW_STREAM)
        expected["bad-arrow"] += 6
        await send(settings, *[of_nothing] * 400, content_type=ARROW_STREAM)
        expected["missing-field"] += 400
        await flood(settings, 30_000)
        expected["not-json"] += 30_000
        await send(settings, good, content_type=ARROW_STREAM)
        await send(settings, submit(4))
        end = len(await records(settings, topics.SUBMIT))
        most_mb = 0.0
        async with asyncio.timeout(200):
            while await committed(settings) != {0: end}:
                assert process.poll() is None, log.read_text()
                most_mb = max(most_mb, psutil.Process(process.pid).memory_info().rss / MB)
                await asyncio.sleep(0.5)
    assert most_mb < MOST_MB
    assert reasons(await records(settings, topics.DEAD_LETTERS)) == expected
    async with serving(settings) as (it, _):
        tally = await until_read(it, expected.total() + 10)
    assert tally.rejected == expected
    assert (tally.counted + tally.late, tally.duplicate, tally.misclocked) == (4, 6, 0)


async def flood(settings: Settings, count: int) -> None:
    """So many bad records, many to a record batch."""
    async with producer_client(settings, max_batch_size=MB) as producer:
        batch = producer.create_batch()
        for _ in range(count):
            assert batch.append(key=KEY, value=b"bad", timestamp=NOW_MS)
        await (await producer.send_batch(batch, settings.topic_prefix + topics.SUBMIT.name, partition=0))
