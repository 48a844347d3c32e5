"""Three brokers: leaders and the group's coordinator die and come back under load, and nothing is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from streams import topics
from streams.feeds.producer import Summary
from streams.kafka import admin_client
from streams.settings import Settings
from tests.conftest import require
from tests.oracle import heard, uninterrupted
from tests.running import all_of, committed, feeding, make, more_than, until_committed, worker
from tests.servers import ApacheKafka, KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    require(ApacheKafka.missing())
    # The last word on who leads is the operator's election below, not the broker's own.
    with KafkaCluster(3, {"auto.leader.rebalance.enable": "false"}) as servers:
        yield servers


@pytest.fixture
def settings(cluster: KafkaCluster, settings: Settings) -> Settings:
    return settings.model_copy(update={"bootstrap_servers": cluster.bootstrap_servers})


async def test_of_three_copies_two_must_have_a_record(settings: Settings) -> None:
    name = settings.topic_prefix + topics.ALERTS.name
    else_right = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(name, 3, 3, topic_configs=else_right)])
    await topics.create(settings)
    assert [str(found) for found in await topics.check(settings)] == [
        f"{name}: min.insync.replicas: found 1, must be 2 or more"
    ]


async def leaders(settings: Settings, topic: topics.Topic) -> dict[int, int]:
    """Partition -> node id."""
    async with admin_client(settings) as admin:
        (found,) = await admin.describe_topics([settings.topic_prefix + topic.name])
    return {partition["partition"]: partition["leader"] for partition in found["partitions"]}


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; a broker that has just died is asked too, as long as the others name it."""
    async with asyncio.timeout(60):
        while True:
            with suppress(KafkaError):
                if await holds():
                    return
            await asyncio.sleep(0.2)


async def is_whole(settings: Settings) -> bool:
    """Whether every copy of every partition has caught up."""
    async with admin_client(settings) as admin:
        found = await admin.describe_topics()
    return all(len(p["isr"]) == len(p["replicas"]) for topic in found for p in topic["partitions"])


async def coordinator(settings: Settings) -> int:
    async with admin_client(settings) as admin:
        found: int = await admin.find_coordinator(settings.group_id)
    return found


async def progress(settings: Settings, sending: "asyncio.Task[Summary]", submits: int) -> None:
    """So many more are in a checkpoint, or there are no more."""
    before = sum((await committed(settings)).values())
    await until_committed(settings, lambda now: sending.done() or more_than(before + submits, now))


async def is_led_by_others(settings: Settings, victim: int) -> bool:
    return victim not in {await coordinator(settings), *(await leaders(settings, topics.STATE)).values()}


async def test_brokers_that_die_while_they_lead_lose_nothing(
    cluster: KafkaCluster, settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await make(settings, morning)
    sending, log = feeding(settings, morning), tmp_path / "worker.log"
    with worker(settings, log) as process:
        await progress(settings, sending, 10_000)
        for victim in ((await leaders(settings, topics.SUBMIT))[0], await coordinator(settings)):
            cluster.nodes[victim].kill()
            await eventually(partial(is_led_by_others, settings, victim))
            await progress(settings, sending, 3_000)
            await asyncio.to_thread(cluster.nodes[victim].start)
            await eventually(partial(is_whole, settings))
        before = await leaders(settings, topics.SUBMIT)
        election = "kafka-leader-election.sh --election-type preferred --all-topic-partitions"
        await asyncio.to_thread(cluster.nodes[1].tool, election)
        assert await leaders(settings, topics.SUBMIT) != before
        sent = await sending
        await until_committed(settings, partial(all_of, sent.sent))
        process.terminate()
        assert process.wait(5) == 0, log.read_text()
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert "Traceback" not in log.read_text()
