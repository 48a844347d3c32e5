"""What stands in the topic of submits."""

import asyncio
from collections.abc import Sequence

from aiokafka import ConsumerRecord, TopicPartition

from streams.kafka import consumer_client, records_to_end
from streams.settings import Settings
from streams.topics import SUBMIT

PARTITIONS = 4


async def submitted(settings: Settings) -> list[ConsumerRecord]:
    """All of it, in the order of each partition."""
    async with consumer_client(settings) as consumer:
        name = SUBMIT.with_prefix(settings.topic_prefix).name
        consumer.assign([TopicPartition(name, number) for number in range(PARTITIONS)])
        return [record async for record in records_to_end(consumer)]


async def submitted_in_time(settings: Settings, count: int) -> Sequence[ConsumerRecord]:
    """As `submitted`, once there are `count`. Raises TimeoutError after 20 s."""
    async with asyncio.timeout(20):
        records = await submitted(settings)
        while len(records) < count:
            records = await submitted(settings)
    return records
