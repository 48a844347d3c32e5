"""Topics on real brokers: what `create` makes is what `check` wants, and each difference is told in exact words."""

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from streams import topics
from streams.embedded import free_port
from streams.kafka import KafkaUnreachableError, admin_client, wait_for_broker
from streams.settings import Settings, load_settings
from tests.conftest import Broker


@pytest.fixture
def settings(broker: Broker, topic_prefix: str) -> Settings:
    return load_settings(bootstrap_servers=(broker.bootstrap,), topic_prefix=topic_prefix, partitions=3)


async def make(settings: Settings, *requests: NewTopic) -> None:
    async with admin_client(settings) as admin:
        response = await admin.create_topics(list(requests))
        assert [code for _, code, _ in response.topic_errors] == [0] * len(requests)


async def test_create_makes_what_check_wants_and_does_so_once(settings: Settings) -> None:
    names = [topic.name for topic in topics.all_with_prefix(settings)]

    assert [str(found) for found in await topics.check(settings)] == [f"{name}: missing" for name in names]
    assert await topics.create(settings) == names
    assert await topics.check(settings) == []
    assert await topics.create(settings) == []


async def test_looking_at_missing_topics_creates_none(settings: Settings) -> None:
    await topics.check(settings)

    async with admin_client(settings) as admin:
        assert not [name for name in await topics.partition_counts(admin) if name.startswith(settings.topic_prefix)]


async def test_create_leaves_an_existing_topic_and_check_says_how_it_differs(settings: Settings) -> None:
    prefix = settings.topic_prefix
    await make(
        settings,
        NewTopic(f"{prefix}sms.submit.v1", 2, 1, topic_configs={"retention.ms": "3600000"}),
        NewTopic(f"{prefix}sms.registry.ports.v1", 1, 1, topic_configs={"cleanup.policy": "delete"}),
        NewTopic(f"{prefix}sms.alerts.v1", 3, 1, topic_configs={"retention.ms": "-1"}),
    )

    await topics.create(settings)

    assert [str(found) for found in await topics.check(settings)] == [
        f"{prefix}sms.submit.v1: partitions: found 2, must be 3",
        f"{prefix}sms.submit.v1: retention.ms: found 3600000, must be 604800000 or more, or -1",
        f"{prefix}sms.registry.ports.v1: cleanup.policy: found delete, must be compact",
        f"{prefix}sms.registry.ports.v1: message.timestamp.type: found CreateTime, must be LogAppendTime",
        f"{prefix}sms.alerts.v1: message.timestamp.type: found CreateTime, must be LogAppendTime",
    ]


@pytest.mark.kafka
async def test_dead_letters_must_have_room_for_the_largest_submit(kafka: Broker, topic_prefix: str) -> None:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix, partitions=3)
    large = {"max.message.bytes": "10000000", "retention.ms": "-1"}
    await make(settings, NewTopic(f"{topic_prefix}sms.submit.v1", 3, 1, topic_configs=large))

    await topics.create(settings)

    [found] = await topics.check(settings)
    assert found.topic == f"{topic_prefix}sms.submit.v1.dlq"
    assert found.what.startswith("max.message.bytes: found 1052684, must be 10004096 or more: what is larger is cut")
    assert await topics.largest_bytes(settings, topics.DEAD_LETTERS) == 1_052_684


@pytest.mark.kafka
async def test_a_refused_topic_is_an_error_that_names_it(kafka: Broker, topic_prefix: str) -> None:
    settings = load_settings(bootstrap_servers=(kafka.bootstrap,), topic_prefix=topic_prefix, replication_factor=9)

    with pytest.raises(KafkaError, match=r"sms\.submit\.v1: .*replication"):
        await topics.create(settings)


def test_all_names_and_what_shares_partitions() -> None:
    """The state of a partition must live on as many partitions as the input; the registry is read in one order."""
    settings = load_settings(partitions=7)
    counts = {topic.name: topic.partitions(settings) for topic in topics.ALL}

    assert counts == {
        "sms.submit.v1": 7,
        "sms.registry.ports.v1": 1,
        "sms.registry.signatures.v1": 1,
        "sms.registry.enterprises.v1": 1,
        "sms.registry.campaigns.v1": 1,
        "sms.alerts.v1": 7,
        "sms.commands.v1": 7,
        "sms.panes.v1": 7,
        "sms.submit.v1.dlq": 7,
        "portwatch.state.v1": 7,
    }


async def test_an_absent_broker_is_waited_for_and_then_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    told: list[str] = []

    with pytest.raises(KafkaUnreachableError, match=rf"no Kafka at {address} for \d+ s"):
        await wait_for_broker(load_settings(bootstrap_servers=(address,), broker_wait_s=1.5), told.append)

    assert told == [f"waiting for Kafka at {address} (0 s)..."]


async def test_a_present_broker_is_not_waited_for(settings: Settings) -> None:
    told: list[str] = []
    await wait_for_broker(settings, told.append)
    assert told == []
