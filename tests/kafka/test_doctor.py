"""The doctor beside real servers: what it finds, and that every wrong thing comes with what to do about it."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic
from rich.console import Console

from detectors.registry import PortLease
from streams import topics
from streams.doctor import Report, examine
from streams.embedded import free_port
from streams.kafka import admin_client, consumer_client, producer_client
from streams.registry import build
from streams.registry_topics import publish
from streams.settings import Settings, load_settings
from tests.conftest import Broker
from tests.servers import Alertmanager

pytestmark = pytest.mark.kafka  # the embedded broker tells wrong ends of partitions


@pytest.fixture
def settings(kafka: Broker, topic_prefix: str) -> Settings:
    return load_settings(
        bootstrap_servers=(kafka.bootstrap,),
        topic_prefix=topic_prefix,
        group_id=f"{topic_prefix}portwatch",
        partitions=1,
        checkpoint_interval_s=0.5,
    )


async def submit_and_commit(settings: Settings, submits: int, committed: int) -> None:
    """So many records on the input, and an offset committed for the workers' group."""
    name = f"{settings.topic_prefix}sms.submit.v1"
    async with producer_client(settings) as producer, consumer_client(settings, settings.group_id) as consumer:
        for _ in range(submits):
            await producer.send_and_wait(name, b"{}", key=b"10690010")
        consumer.assign([TopicPartition(name, 0)])
        await consumer.commit({TopicPartition(name, 0): committed})


def found(report: Report, what: str) -> tuple[str, str]:
    """What was found there, and the remedy."""
    (finding,) = [finding for finding in report.findings if finding.what.startswith(what)]
    return finding.found, finding.remedy


async def test_a_healthy_installation(settings: Settings) -> None:
    await topics.create(settings)
    await publish(build([PortLease(access_port="10690010")], [], [], []), settings)
    await submit_and_commit(settings, submits=3, committed=3)

    report = await examine(settings)

    assert report.is_well, report.findings
    assert found(report, "topics") == ("all 10 as they must be", "")
    assert found(report, "group") == ("has read everything", "")
    assert found(report, "registry topics")[0].startswith("1 leases, 0 filings, version ")
    assert report.versions["aiokafka"] == "0.14.0"


async def test_a_new_cluster_is_told_step_by_step(settings: Settings) -> None:
    report = await examine(settings)
    assert {finding.remedy for finding in report.findings if finding.what == "topics"} == {"portwatch topics create"}

    await topics.create(settings)
    report = await examine(settings)
    assert found(report, "group")[1] == "start a worker: portwatch worker"
    assert found(report, "registry topics")[1] == "portwatch registry load DIR"


async def test_offsets_that_stand_still_are_told_from_a_lag_that_shrinks(settings: Settings) -> None:
    await topics.create(settings)
    await submit_and_commit(settings, submits=5, committed=1)

    stuck, remedy = found(await examine(settings), "group")
    assert (stuck, "restart" in remedy) == ("lag: 4 records, offsets stand still", True)

    async def work() -> None:
        for offset in (2, 3, 4):
            await asyncio.sleep(0.4)
            await submit_and_commit(settings, submits=0, committed=offset)

    report, _ = await asyncio.gather(examine(settings), work())
    assert found(report, "group")[0].endswith("records, offsets advance")


async def test_a_topic_that_differs_comes_with_the_command_that_repairs_it(settings: Settings) -> None:
    async with admin_client(settings) as admin:
        name = f"{settings.topic_prefix}sms.alerts.v1"
        wrong = {"retention.ms": "1000", "message.timestamp.type": "LogAppendTime"}
        await admin.create_topics([NewTopic(name, 1, 1, topic_configs=wrong)])
    await topics.create(settings)

    assert found(await examine(settings), "topics") == (
        f"{name}: retention.ms: found 1000, must be 7776000000 or more, or -1",
        f"kafka-configs.sh --entity-type topics --entity-name {name} --alter --add-config retention.ms=7776000000",
    )


@pytest.mark.observability
async def test_each_alertmanager_is_asked(settings: Settings, alertmanager: Alertmanager) -> None:
    absent = f"http://noc:secret@127.0.0.1:{free_port()}"
    report = await examine(settings.model_copy(update={"alertmanager_urls": (alertmanager.url, absent)}))

    assert found(report, f"Alertmanager at {alertmanager.url}")[0].startswith("version 0.")
    assert found(report, "Alertmanager at http://****@")[1] == "start it, or set PORTWATCH_ALERTMANAGER_URLS"
    console = Console(width=60, color_system=None)
    with console.capture() as capture:
        console.print(*report.tables())
    assert "secret" not in capture.get()
    assert "…" not in capture.get()  # nothing is cut short, however narrow the terminal
