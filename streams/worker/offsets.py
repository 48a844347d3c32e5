"""Offsets of the consumer group, with the metadata of a commit, which is where a checkpoint's pointer lives.

Around the aiokafka consumer that Faust runs: its own commit writes no metadata and takes a refusal for a crash.
"""

# ruff: noqa: SLF001 - tests/kafka/test_transport_contract.py holds the private names used here to the pinned versions

import time
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP

from streams.worker.transport import BatchApp


class Offsets:
    """Positions and commits of a started app's consumer. All calls belong on the app's loop."""

    def __init__(self, app: BatchApp) -> None:
        self._app = app
        self._answers: dict[TP, tuple[int | None, float]] = {}

    async def commit(self, offsets: Mapping[TP, tuple[int, str]]) -> bool:
        """Commit next offset and metadata of each partition, all together.

        False when the group refused (this worker is not, or no longer, the owner): then none was committed. While the
        broker is away this tries again without end: the caller sets the time limit. Other failures raise KafkaError; a
        broker takes 4096 bytes of metadata by default (offset.metadata.max.bytes).
        """
        records = {TopicPartition(*partition): OffsetAndMetadata(*offset) for partition, offset in offsets.items()}
        try:
            await self._consumer.commit(records)
        except (CommitFailedError, IllegalStateError):
            return False
        return True

    async def committed(self, partitions: Iterable[TP]) -> dict[TP, tuple[int, str]]:
        """What the group committed last; partitions without a commit are absent."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        found = await self._consumer._coordinator.fetch_committed_offsets(wanted)
        return {TP(*partition): (commit.offset, commit.metadata) for partition, commit in found.items()}

    async def seek(self, partition: TP, offset: int) -> None:
        """Go on at `offset`. Batches already handed on still arrive: their [start, end) tells. Raises IllegalStateError
        for a partition of somebody else."""
        await self._app.consumer.seek(TopicPartition(*partition), offset)

    async def position(self, partition: TP) -> int:
        """The offset that is drained next; waits while it is being looked up."""
        position: int = await self._consumer.position(TopicPartition(*partition))
        return position

    def end_offset(self, partition: TP) -> int | None:
        """The partition's end (high watermark) as of the last fetch; None before the first."""
        end: int | None = self._consumer.highwater(TopicPartition(*partition))
        return end

    def answered_at_s(self, partition: TP) -> float:
        """When (monotonic, seconds) the caller could first know of the broker's last answer to a fetch of this
        partition; 0 before the first. aiokafka's own note of it is by the wall clock, which may jump."""
        answered_ms: int | None = self._consumer.last_poll_timestamp(TopicPartition(*partition))
        known = self._answers.get(partition, (None, 0.0))
        if answered_ms != known[0]:
            known = self._answers[partition] = (answered_ms, time.monotonic())
        return known[1]

    async def beginning_offsets(self, partitions: Iterable[TP]) -> dict[TP, int]:
        """The first offset that still exists, asked from the broker."""
        found = await self._consumer.beginning_offsets([TopicPartition(*partition) for partition in partitions])
        return {TP(*partition): offset for partition, offset in found.items()}

    async def end_offsets(self, partitions: Iterable[TP]) -> dict[TP, int]:
        """The offset behind the last record, asked from the broker."""
        found = await self._consumer.end_offsets([TopicPartition(*partition) for partition in partitions])
        return {TP(*partition): offset for partition, offset in found.items()}

    @property
    def _consumer(self) -> AIOKafkaConsumer:
        return self._app.consumer._thread._ensure_consumer()
