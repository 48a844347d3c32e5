"""Workers of two versions in one group: the newer takes the state along, the older refuses it and harms nothing."""

import asyncio
import signal
from functools import partial
from pathlib import Path

import msgspec
import pytest
from aiokafka import TopicPartition

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.kafka import committed as commits
from streams.kafka import consumer_client
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from tests.kafka.newer_worker import NEWER
from tests.oracle import heard, uninterrupted
from tests.running import until_committed, worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

SPEED = 120.0
THE_NEWER = ("tests.kafka.newer_worker",)


async def versions(settings: Settings) -> set[int]:
    """Of the checkpoints that the group's commits point to."""
    name = settings.topic_prefix + topics.SUBMIT.name
    async with consumer_client(settings, settings.group_id) as consumer:
        found = await commits(consumer, [TopicPartition(name, n) for n in range(settings.partitions)])
    return {msgspec.json.decode(commit.metadata)["version"] for commit in found.values()}


async def until_versions(settings: Settings, wanted: set[int]) -> None:
    async with asyncio.timeout(60):
        while await versions(settings) != wanted:  # noqa: ASYNC110 - a broker has no event to wait for
            await asyncio.sleep(0.2)


def _more_than(submits: int, offsets: dict[int, int]) -> bool:
    return sum(offsets.values()) > submits


async def test_a_rolling_upgrade_that_goes_wrong_in_between_loses_nothing(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    feeding = asyncio.create_task(feed(SubmitLines(), morning / "submits.jsonl", settings, speed=SPEED))
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    with worker(settings, old) as one, worker(settings, tmp_path / "other.log") as other:
        await until_committed(settings, partial(_more_than, 3_000))
        other.terminate()
        assert await asyncio.to_thread(other.wait, 10) == 0
        with worker(settings, new, THE_NEWER) as newer:
            await until_versions(settings, {NEWER - 1, NEWER})
            newer.send_signal(signal.SIGKILL)
            assert await asyncio.to_thread(one.wait, 60) == 1  # it is given what it can't read
    last = old.read_text().splitlines()[-1]
    assert f"state version {NEWER}, this portwatch reads up to {NEWER - 1}" in last
    assert "Upgrade this worker; nothing is lost" in last
    assert "Traceback" not in old.read_text()
    with worker(settings, new, THE_NEWER), worker(settings, tmp_path / "third.log", THE_NEWER):
        sent = await feeding
        await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
        await until_versions(settings, {NEWER})
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
