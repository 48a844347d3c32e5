"""Everything that leaves the worker for Kafka, and the certainty that it arrived.

Records are sent as they come about and acknowledged in the background; `settle` waits for all of them. A checkpoint is
only written behind `settle`, so what a crash loses is sent again, under the same ids.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from cloudevents.core.bindings.kafka import to_binary_event
from cloudevents.core.v1.event import CloudEvent

from detectors.contract import Alert, Command, Pane
from streams import topics
from streams.contract import DeadLetter, Reject, RejectReason
from streams.kafka import send
from streams.records import encode, port_counts
from streams.settings import Settings
from streams.worker.transport import CONTENT_TYPE, PartitionBatch

MOST_UNSETTLED = 10_000
"""Records on their way at once; sending waits beyond it. With panes of 100,000 ports this is what bounds memory."""
KEPT_BYTES = 1_024
"""Of a letter that is cut: enough to see whose it is and how it is built."""


class Outbox:
    """Sends alerts, commands, panes and dead letters of all partitions of one worker."""

    def __init__(
        self, settings: Settings, producer: AIOKafkaProducer, largest_letter_bytes: int = topics.USUAL_LARGEST_BYTES
    ) -> None:
        self._producer = producer
        self._largest_letter_bytes = largest_letter_bytes
        self._source = f"/portwatch/{settings.group_id}"
        self._unsettled: set[asyncio.Future[Any]] = set()

        def name(topic: topics.Topic) -> str:
            return topic.with_prefix(settings.topic_prefix).name

        self._alerts, self._commands, self._panes, self._dead_letters = map(
            name, (topics.ALERTS, topics.COMMANDS, topics.PANES, topics.DEAD_LETTERS)
        )

    async def alerts(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            identity = f"{alert.alert_id}/{alert.state}/{alert.last_seen_ms}"
            await self._event(self._alerts, f"alert.{alert.state}", identity, alert.alert_id, alert)

    async def commands(self, commands: Iterable[Command]) -> None:
        for command in commands:
            kind = f"command.{command.action}"
            await self._event(self._commands, kind, command.command_id, command.access_port, command)

    async def panes(self, panes: Iterable[Pane], *, amends: bool) -> None:
        for pane in panes:
            for counts in port_counts(pane, amends=amends):
                await self._send(self._panes, encode(counts), counts["access_port"].encode())

    async def dead_letters(self, batch: PartitionBatch, skipped: int, rejects: Iterable[Reject]) -> None:
        """The rejects of a batch that was decoded without its first `skipped` records."""
        for reject in rejects:
            row = reject.index + skipped
            logged_ms = int(batch.log_time_ms[row])
            letter = DeadLetter.of(reject, batch.topic, batch.partition, logged_ms, batch.replayed.get(row))
            headers = list(letter.headers.items())
            if reject.line is None and row in batch.content_types:
                headers.append((CONTENT_TYPE, batch.content_types[row]))
            await self._dead_letter(letter, batch.keys[row], headers)

    async def _dead_letter(self, letter: DeadLetter, key: bytes | None, headers: list[tuple[str, bytes]]) -> None:
        """Whole, or cut where the topic would refuse it: a refusal ends the producer, and the next worker's as well."""
        if _size_bytes(key, letter.original, headers) > self._largest_letter_bytes:
            letter = letter.cut(KEPT_BYTES)
            headers = list(letter.headers.items())  # of what is left of a block the content type is not true
            key = key if key is not None and len(key) <= KEPT_BYTES else None
        await self._send(self._dead_letters, letter.original, key, headers)

    async def corrupt(self, batch: PartitionBatch, start: int) -> None:
        """One letter for all records of a batch that can't be read, from `start` on."""
        letter = DeadLetter(
            reason=RejectReason.CORRUPT_BATCH,
            error=f"{batch.end - start} records up to offset {batch.end - 1}: {batch.corrupt}",
            topic=batch.topic,
            partition=batch.partition,
            offset=start,
        )
        await self._send(self._dead_letters, None, None, list(letter.headers.items()))

    async def settle(self) -> None:
        """Return when the broker has everything that was sent until now.

        Raises the error of a record that it did not take, and does so every time from then on: what that record says
        may not be left behind by a checkpoint.
        """
        if waiting := tuple(self._unsettled):
            await asyncio.wait(waiting)  # a wait that is cancelled leaves the futures, and so the certainty, alone
            for sent in waiting:
                sent.result()
            self._unsettled.difference_update(waiting)

    async def _event(self, topic: str, kind: str, identity: str, key: str, record: Alert | Command) -> None:
        attributes = {
            "id": identity,  # the same for the same event, so that a redelivery can be told from news
            "source": self._source,
            "type": f"portwatch.{kind}.v1",
            "subject": record.access_port,
            "time": datetime.now(UTC),
            "datacontenttype": "application/json",
            "partitionkey": key,
        }
        message = to_binary_event(
            CloudEvent(attributes={k: v for k, v in attributes.items() if v}, data=encode(record))
        )
        await self._send(topic, message.value, key.encode(), list(message.headers.items()))

    async def _send(
        self, topic: str, value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]] | None = None
    ) -> None:
        if key is None and value is None:
            value = b""  # aiokafka sends no record that has neither
        self._unsettled.add(await send(self._producer, topic, value=value, key=key, headers=headers))
        if len(self._unsettled) > MOST_UNSETTLED:
            await self.settle()


def _size_bytes(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> int:
    """Of a record batch of this record, what a topic's max.message.bytes speaks of; a few bytes too many."""
    size: int = DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, headers)
    return size
