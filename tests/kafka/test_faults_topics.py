"""Topics that are missing, lost, late, grown or reset: the worker says which and what to do, and the way out works."""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.kafka import admin_client, producer_client
from streams.registry import load_folder
from streams.registry_topics import MARK_KEY, publish
from streams.settings import Settings
from streams.worker.service import StartError, serve
from tests.conftest import require
from tests.oracle import heard, uninterrupted
from tests.running import all_of, committed, make, serving, until, until_committed, worker
from tests.servers import ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def strict_kafka() -> Iterator[ApacheKafka]:
    """One that makes no topics by itself, as production should."""
    require(ApacheKafka.missing())
    with ApacheKafka({"auto.create.topics.enable": "false"}) as server:
        yield server


@pytest.fixture
def settings(strict_kafka: ApacheKafka, settings: Settings) -> Settings:
    return settings.model_copy(update={"bootstrap_servers": (strict_kafka.bootstrap,)})


async def sent(settings: Settings, morning: Path) -> int:
    """All submits, at once."""
    return (await feed(SubmitLines(), morning / "submits.jsonl", settings)).sent


async def delete(settings: Settings, topic: topics.Topic) -> None:
    name = settings.topic_prefix + topic.name
    async with admin_client(settings) as admin:
        await admin.delete_topics([name])
        async with asyncio.timeout(20):
            while name in await topics.partition_counts(admin):  # noqa: ASYNC110 - a broker has no event to wait for
                await asyncio.sleep(0.1)


# ---- topics that the worker writes


@pytest.mark.parametrize("lost", [topics.ALERTS, topics.STATE])
async def test_a_topic_deleted_under_a_worker_ends_it_with_the_way_out(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch, lost: topics.Topic
) -> None:
    monkeypatch.setattr("streams.worker.service.TOPICS_S", 3.0)
    await make(settings, morning)
    life = asyncio.create_task(serve(settings, asyncio.Event()))
    await asyncio.sleep(1)
    await delete(settings, lost)
    total = await sent(settings, morning)
    with pytest.raises(topics.TopicError) as refusal:
        async with asyncio.timeout(60):
            await life
    assert str(refusal.value) == f"no topics {settings.topic_prefix}{lost.name}: `portwatch topics create` makes them"
    with pytest.raises(StartError, match=lost.name):  # nor does it start without
        await serve(settings, asyncio.Event())
    assert await topics.create(settings) == [settings.topic_prefix + lost.name]
    async with serving(settings):
        await until_committed(settings, partial(all_of, total))
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")


async def test_a_topic_made_anew_with_fewer_partitions_ends_it_too(
    strict_kafka: ApacheKafka, settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was on its way to the others would wait for ever."""
    monkeypatch.setattr("streams.worker.service.TOPICS_S", 8.0)  # it does not look in between
    await make(settings, morning)
    life = asyncio.create_task(serve(settings, asyncio.Event()))
    await asyncio.sleep(2)
    await delete(settings, topics.ALERTS)
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(settings.topic_prefix + topics.ALERTS.name, 1, 1)])
    total = await sent(settings, morning)
    with pytest.raises(topics.TopicError, match=r"alerts\.v1: had 3 partitions, has 1: made anew") as refusal:
        async with asyncio.timeout(60):
            await life
    await asyncio.to_thread(strict_kafka.tool, advised(str(refusal.value), r"kafka-topics\.sh .*--partitions 3"))
    async with serving(settings):
        await until_committed(settings, partial(all_of, total))
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")


def advised(text: str, pattern: str) -> str:
    """The command that a refusal tells to run."""
    found = re.search(pattern, text)
    assert found, text
    return found.group()


# ---- the state topic


async def truncate(settings: Settings, topic: topics.Topic, before: Mapping[int, int] | None = None) -> None:
    """Delete the records below the offsets, or all."""
    name = settings.topic_prefix + topic.name
    below = before or dict.fromkeys(range(settings.partitions), -1)
    async with admin_client(settings) as admin:
        await admin.delete_records({TopicPartition(name, n): RecordsToDelete(offset) for n, offset in below.items()})


async def judged_since(settings: Settings, starts: Mapping[int, int], registry: Path) -> None:
    """Assert that what was said after `forget_outputs` is what one run from these offsets says."""
    said, _ = await heard(settings)
    await truncate(settings, topics.SUBMIT, starts)
    assert said == await uninterrupted(settings, registry)
    assert said.panes
    assert said.alerts


async def forget_outputs(settings: Settings) -> None:
    for topic in (topics.PANES, topics.ALERTS, topics.COMMANDS):
        await truncate(settings, topic)


@pytest.fixture(scope="module")
def thirds(morning: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first hour of the morning in three files."""
    lines = (morning / "submits.jsonl").read_bytes().splitlines(keepends=True)[:36_000]
    folder = tmp_path_factory.mktemp("thirds")
    for n in range(3):
        (folder / f"{n}.jsonl").write_bytes(b"".join(lines[12_000 * n : 12_000 * (n + 1)]))
    return [folder / f"{n}.jsonl" for n in range(3)]


async def counted(settings: Settings, file: Path) -> None:
    """Send a file and have a worker count it."""
    ends = sum((await committed(settings)).values()) + (await feed(SubmitLines(), file, settings)).sent
    async with serving(settings):
        await until_committed(settings, partial(all_of, ends))


def refusal_of(settings: Settings, log: Path) -> str | None:
    """What a worker says that does not start; None when it does."""
    log.unlink(missing_ok=True)
    with worker(settings, log) as process:
        while process.poll() is None:
            if "are ours" in log.read_text():
                return None
            time.sleep(0.1)
    assert process.returncode == 1
    assert "Traceback" not in log.read_text()
    return log.read_text().splitlines()[-1]


@pytest.mark.parametrize("is_lost", [False, True], ids=["truncated", "lost"])
async def test_without_the_state_it_refuses_and_the_way_out_works(
    strict_kafka: ApacheKafka, settings: Settings, morning: Path, thirds: list[Path], tmp_path: Path, *, is_lost: bool
) -> None:
    settings = settings.model_copy(update={"partitions": 1})  # each refuses by itself
    await make(settings, morning)
    await counted(settings, thirds[0])
    if is_lost:
        await delete(settings, topics.STATE)
        await topics.create(settings)
    else:
        await truncate(settings, topics.STATE)
    starts, log = await committed(settings), tmp_path / "worker.log"
    while refusal := await asyncio.to_thread(refusal_of, settings, log):
        assert "is gone" in refusal
        await asyncio.to_thread(strict_kafka.tool, advised(refusal, r"kafka-consumer-groups\.sh .*?--execute"))
    assert await committed(settings) == starts
    await forget_outputs(settings)
    await counted(settings, thirds[1])
    await judged_since(settings, starts, morning / "registry")


@pytest.mark.parametrize("is_lost", [False, True], ids=["truncated", "lost"])
async def test_a_state_that_is_lost_under_a_worker_is_written_again(
    settings: Settings, morning: Path, thirds: list[Path], *, is_lost: bool
) -> None:
    """It still knows everything; what stands on the topic by then must not be what it goes on from."""
    await make(settings, morning)
    async with serving(settings):
        sent = (await feed(SubmitLines(), thirds[0], settings)).sent
        await until_committed(settings, partial(all_of, sent))
        if is_lost:
            await delete(settings, topics.STATE)
            await topics.create(settings)
        else:
            await truncate(settings, topics.STATE)
        sent += (await feed(SubmitLines(), thirds[1], settings)).sent
        await until_committed(settings, partial(all_of, sent))
    await counted(settings, thirds[2])
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")


# ---- the registry


async def test_a_registry_that_is_late_is_waited_for(settings: Settings, morning: Path, tmp_path: Path) -> None:
    await topics.create(settings)
    total, log = await sent(settings, morning), tmp_path / "worker.log"
    begun = json.dumps({"state": "begun", "version": "x"}).encode()
    with worker(settings, log) as process:
        await until(lambda: "waiting for the registry: its topics are empty" in log.read_text(), patience_s=60)
        async with producer_client(settings) as producer:  # a load that breaks off
            await producer.send_and_wait(settings.topic_prefix + topics.PORTS.name, begun, key=MARK_KEY)
        await until(lambda: "a load is under way or broke off" in log.read_text(), patience_s=60)
        assert "are ours" not in log.read_text()
        await publish(load_folder(morning / "registry"), settings)
        await until_committed(settings, partial(all_of, total))
        process.terminate()
        assert process.wait(5) == 0, log.read_text()
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")


# ---- the offsets of the group


@pytest.mark.parametrize(
    "how",
    [
        "--reset-offsets --to-earliest --execute",
        "--reset-offsets --to-datetime {now} --execute",
        "--reset-offsets --to-latest --execute",
        "--delete-offsets",
    ],
    ids=["earliest", "datetime", "latest", "deleted"],
)
async def test_a_group_that_is_reset_starts_afresh_there(
    strict_kafka: ApacheKafka, settings: Settings, morning: Path, thirds: list[Path], how: str
) -> None:
    await make(settings, morning)
    await counted(settings, thirds[0])
    ends = await committed(settings)
    how = how.format(now=datetime.now(UTC).isoformat(timespec="milliseconds"))
    await feed(SubmitLines(), thirds[1], settings)
    where = f"--group {settings.group_id} --topic {settings.topic_prefix}{topics.SUBMIT.name}"
    await asyncio.to_thread(strict_kafka.tool, f"kafka-consumer-groups.sh {where} {how}")
    starts = await committed(settings) or dict.fromkeys(range(settings.partitions), 0)
    assert (starts == ends) == ("datetime" in how)
    await forget_outputs(settings)
    total = 24_000 + (await feed(SubmitLines(), thirds[2], settings)).sent
    async with serving(settings) as (it, _):
        await until_committed(settings, partial(all_of, total))
        assert sum(view.tally.submits_in for view in it.views.values()) == total - sum(starts.values())
    await judged_since(settings, starts, morning / "registry")


# ---- more partitions


async def grow(settings: Settings, topic: topics.Topic, partitions: int) -> None:
    async with admin_client(settings) as admin:
        await admin.create_partitions({settings.topic_prefix + topic.name: NewPartitions(partitions)})


async def test_partitions_that_submits_get_are_counted_from_their_first_record(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State first: then no worker has to stop."""
    monkeypatch.setattr("streams.worker.transport.METADATA_MS", 2_000)
    monkeypatch.setattr("streams.worker.service.TOPICS_S", 1.0)
    await make(settings, morning)
    settings = settings.model_copy(update={"state_in": None})  # a port's history goes by where it lives at the start
    more = settings.model_copy(update={"partitions": settings.partitions + 1})
    async with serving(settings) as (it, _):
        await until(lambda: len(it.views) == settings.partitions)
        await grow(settings, topics.STATE, more.partitions)
        await grow(settings, topics.SUBMIT, more.partitions)
        total = await sent(settings, morning)
        await until_committed(more, partial(all_of, total))
        assert len(it.views) == more.partitions
    said, _ = await heard(more)
    assert said == await uninterrupted(more, morning / "registry")


async def test_partitions_without_room_for_their_state_end_it_with_the_way_out(
    strict_kafka: ApacheKafka, settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.worker.transport.METADATA_MS", 500)
    settings = settings.model_copy(update={"state_in": None})  # as above
    await make(settings, morning)
    more = settings.model_copy(update={"partitions": settings.partitions + 1})
    life = asyncio.create_task(serve(settings, asyncio.Event()))
    await asyncio.sleep(2)
    await grow(settings, topics.SUBMIT, more.partitions)
    total = await sent(settings, morning)
    with pytest.raises(topics.TopicError, match=r"state\.v1: has 3 partitions, must have as many") as refusal:
        async with asyncio.timeout(60):
            await life
    await asyncio.to_thread(strict_kafka.tool, advised(str(refusal.value), r"kafka-topics\.sh .*--partitions 4"))
    async with serving(more):
        await until_committed(more, partial(all_of, total))
    said, _ = await heard(more)
    assert said == await uninterrupted(more, morning / "registry")
