"""What stands in the topic of submits."""

import asyncio

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from streams.kafka import consumer_client
from streams.settings import Settings
from streams.topics import SUBMIT

PARTITIONS = 4


async def submitted(settings: Settings, count: int) -> list[ConsumerRecord]:
    """All of it, in the order of each partition, once there are `count`. Raises TimeoutError after 30 s.

    Where the partitions end is not asked: the embedded broker names the beginning of the last batch.
    """
    records: list[ConsumerRecord] = []
    async with consumer_client(settings) as consumer:
        name = SUBMIT.with_prefix(settings.topic_prefix).name
        consumer.assign([TopicPartition(name, number) for number in range(PARTITIONS)])
        async with asyncio.timeout(30):
            while len(records) < count or await _more(consumer, records, timeout_ms=300):
                await _more(consumer, records, timeout_ms=100)
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def _more(consumer: AIOKafkaConsumer, records: list[ConsumerRecord], timeout_ms: int) -> bool:
    batches = await consumer.getmany(timeout_ms=timeout_ms)
    for batch in batches.values():
        records += batch
    return bool(batches)
