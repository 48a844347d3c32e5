"""How far the workers have got, partition by partition, as their own output shows it.

Every slice of traffic holds a reject for each partition, and its dead letter goes out when it is met, where panes wait
for their time. So the newest submit that a partition has answered for is known ten times a second, whoever owns it.
"""

import asyncio
import time

from aiokafka import TopicPartition

from streams import topics
from streams.kafka import consumer_client
from streams.settings import Settings


class Pulse:
    """Listens to the dead letters of a run. `reached_ms` is by partition of submits, in wall clock of sending."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._moved = asyncio.Condition()
        self.longest_wait_ms = 0  # of any submit that was answered for
        self.reached_ms = dict.fromkeys(range(settings.partitions), int(time.time() * 1_000))

    @property
    def lag_s(self) -> float:
        """Age of the newest submit that the slowest partition has answered for."""
        return time.time() - min(self.reached_ms.values()) / 1_000

    async def listen(self) -> None:
        topic = topics.DEAD_LETTERS.with_prefix(self._settings.topic_prefix).name
        async with consumer_client(self._settings) as consumer:
            consumer.assign([TopicPartition(topic, partition) for partition in self.reached_ms])
            async for letter in consumer:
                headers = dict(letter.headers)
                partition, sent_ms = (int(headers[f"dlq.original.{name}"]) for name in ("partition", "timestamp"))
                if sent_ms > self.reached_ms[partition]:
                    self.longest_wait_ms = max(self.longest_wait_ms, int(time.time() * 1_000) - sent_ms)
                    async with self._moved:
                        self.reached_ms[partition] = sent_ms
                        self._moved.notify_all()

    async def beyond(self, at_ms: int) -> None:
        """Return when every partition has answered for a submit that was sent after `at_ms`."""
        async with self._moved:
            await self._moved.wait_for(lambda: min(self.reached_ms.values()) > at_ms)
