"""The gateway that tests send through, and the topic that feeds write."""

from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from streams import topics
from streams.kafka import consumer_client
from streams.settings import Settings, load_settings
from tests.conftest import Broker, require
from tests.gateway.kannel import Kannel

PARTITIONS = 4


@pytest.fixture
def kannel() -> Iterator[Kannel]:
    """A Kannel of its own for each test (it starts within a second), with an empty access log."""
    require(Kannel.missing())
    with Kannel() as gateway:
        yield gateway


@pytest.fixture
async def settings(broker: Broker, topic_prefix: str) -> AsyncIterator[Settings]:
    """Settings of a cluster whose topics exist, with four partitions and nothing in them."""
    chosen = load_settings(bootstrap_servers=broker.bootstrap, topic_prefix=topic_prefix, partitions=PARTITIONS)
    await topics.create(chosen)
    yield chosen


async def read_submits(settings: Settings) -> list[ConsumerRecord]:
    """Everything that stands in the topic of submits now, partition by partition."""
    async with consumer_client(settings) as consumer:
        return await _read(consumer, settings)


async def _read(consumer: AIOKafkaConsumer, settings: Settings) -> list[ConsumerRecord]:
    partitions = [
        topics.TopicPartition(settings.topic_prefix + topics.SUBMIT.name, partition) for partition in range(PARTITIONS)
    ]
    return []
