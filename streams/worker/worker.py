"""The worker: partition batches in, verdicts out, and a checkpoint that an offset commit points to.

The order is the guarantee, and it reads in order: `_take` counts and sends, `checkpoint` packs what was counted, waits
until everything sent has arrived, writes the chunks and only then commits. Whatever dies in between is done again from
the last pointer, with the same ids.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
import numpy as np
from faust.types import TP

from detectors.batch import SubmitBatch, empty_batch
from detectors.contract import PANE_MS, Detector, Finding, Pane
from detectors.pipeline import PartitionState, Pipeline
from detectors.registry import Registry
from streams.noc.alertmanager import AlertmanagerPush
from streams.worker.checkpoint import Checkpoints, Pointer, pack
from streams.worker.codec import decode
from streams.worker.metrics import BUSIEST, Metrics, PartitionView
from streams.worker.offsets import Offsets
from streams.worker.outbox import Outbox
from streams.worker.transport import PartitionBatch

log = logging.getLogger(__name__)

IDLE_GRACE_S = 30.0
"""A partition that brought nothing for so long moves on with the wall clock, that much behind it."""


class OffsetGapError(Exception):
    """Records between the state and the next batch exist in Kafka and were not handed on: going on would lose them."""


class RegistrySource(Protocol):
    """Whatever gives the registry snapshot in force: the registry topics, or a folder."""

    @property
    def registry(self) -> Registry: ...

    @property
    def age_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Timed:
    """A detector that tells how long it took; instruments are wrapped around, never inside."""

    detector: Detector[Any]
    spent: Callable[[float], None]

    @property
    def name(self) -> str:
        return self.detector.name

    def start(self) -> Any:  # noqa: ANN401 - the state of any detector
        return self.detector.start()

    def step(self, state: Any, pane: Pane, registry: Registry) -> list[Finding]:  # noqa: ANN401 - as above
        began = time.perf_counter()
        findings = self.detector.step(state, pane, registry)
        self.spent(time.perf_counter() - began)
        return findings


@dataclass(slots=True)
class Assigned:
    """A partition that this worker owns."""

    state: PartitionState
    view: PartitionView
    checkpointed_offset: int
    heard_s: float  # monotonic: when the last batch came
    heard_clock_ms: int  # where event time stood then


class Worker:
    """Counts the partitions of one input topic. All methods belong on the app's loop."""

    def __init__(
        self,
        topic: str,
        pipeline: Pipeline,
        registry: RegistrySource,
        offsets: Offsets,
        checkpoints: Checkpoints,
        outbox: Outbox,
        push: AlertmanagerPush,
        metrics: Metrics,
        begin: Callable[[PartitionState, int], None],
        *,
        emits_panes: bool,
    ) -> None:
        self._topic = topic
        self._pipeline = pipeline
        self._registry = registry
        self._offsets = offsets
        self._checkpoints = checkpoints
        self._outbox = outbox
        self._push = push
        self.metrics = metrics
        self._emits_panes = emits_panes
        self._begin = begin  # fills the state of a partition that starts without a checkpoint
        self._assigned: dict[int, Assigned] = {}
        self._whole = asyncio.Lock()  # held while a state has counted something that is not in the outbox yet
        self._one_checkpoint = asyncio.Lock()
        self.is_assigned = asyncio.Event()  # partitions were taken over at least once

    @property
    def views(self) -> dict[int, PartitionView]:
        return {partition: assigned.view for partition, assigned in self._assigned.items()}

    async def batches(self, stream: AsyncIterable[PartitionBatch]) -> None:
        """Count every batch of the stream."""
        async for batch in stream:
            async with self._whole:
                await self._take(batch)

    async def assign(self, partitions: Iterable[int]) -> None:
        """Take partitions over: exactly where their last checkpoint stands."""
        wanted = [TP(self._topic, partition) for partition in sorted(partitions) if partition not in self._assigned]
        committed = await self._offsets.committed(wanted)
        beginnings = await self._offsets.beginning_offsets(wanted)
        for tp in wanted:
            state = await self._restore(tp, committed.get(tp), beginnings[tp])
            await self._offsets.seek(tp, state.next_offset)
            now_s = time.time()
            view = PartitionView(committed_at_s=now_s, advanced_at_s=now_s)
            self._assigned[tp.partition] = Assigned(
                state, view, state.next_offset, heard_s=time.monotonic(), heard_clock_ms=state.clock_ms
            )
            self._push.tell(episode.told for episode in state.episodes.open.values())
            self._look(tp.partition, self._assigned[tp.partition])
        self.is_assigned.set()
        log.info("partitions %s are ours", [tp.partition for tp in wanted])

    async def _restore(self, tp: TP, committed: tuple[int, str] | None, beginning: int) -> PartitionState:
        if committed is not None and committed[1]:
            pointer = msgspec.json.decode(committed[1], type=Pointer)
            state = await self._checkpoints.read(tp.partition, pointer)
            log.info("partition %d goes on at %d", tp.partition, state.next_offset)
            return state
        state = self._pipeline.start(tp.topic, tp.partition)
        state.next_offset = beginning
        self._begin(state, tp.partition)
        log.info("partition %d starts afresh at %d", tp.partition, beginning)
        return state

    async def release(self) -> None:
        """Give all partitions up, with a last checkpoint."""
        await self.checkpoint()
        for assigned in self._assigned.values():
            self._push.forget(episode.told.alert_id for episode in assigned.state.episodes.open.values())
        self._assigned.clear()

    async def checkpoint(self) -> None:
        """Make durable what was counted so far; does nothing for partitions that have not moved."""
        async with self._one_checkpoint:
            async with self._whole:
                moved = {p: a for p, a in self._assigned.items() if a.state.next_offset != a.checkpointed_offset}
                packed = {p: (a.state.next_offset, self._pack(a.state)) for p, a in moved.items()}
            if packed and await self._commit(packed):
                for partition, (offset, _) in packed.items():
                    moved[partition].checkpointed_offset = offset
                    moved[partition].view.committed_at_s = time.time()

    def _pack(self, state: PartitionState) -> bytes:
        with self._timed("pack"):
            return pack(state)

    async def _commit(self, packed: dict[int, tuple[int, bytes]]) -> bool:
        await self._outbox.settle()  # 1: what was said has arrived
        pointers = {
            partition: await self._checkpoints.write(partition, state) for partition, (_, state) in packed.items()
        }
        is_ours = await self._offsets.commit(  # 3: behind 2, the chunks
            {
                TP(self._topic, partition): (offset, msgspec.json.encode(pointers[partition]).decode())
                for partition, (offset, _) in packed.items()
            }
        )
        if not is_ours:
            self.metrics.refused_commits.inc()
            log.warning("the group refused our commit: partitions %s have another owner", sorted(packed))
        return is_ours

    async def tick(self) -> None:
        """Once a second: move idle partitions on, refresh the gauges."""
        async with self._whole:
            for partition, assigned in self._assigned.items():
                quiet_ms = int((time.monotonic() - assigned.heard_s - IDLE_GRACE_S) * 1_000)
                if quiet_ms > 0 and assigned.heard_clock_ms and not assigned.view.lag:
                    rows = empty_batch(assigned.heard_clock_ms + quiet_ms)
                    await self._step(assigned, rows, {})
                self._look(partition, assigned)

    async def _take(self, batch: PartitionBatch) -> None:
        assigned = self._assigned.get(batch.partition)
        if assigned is None:
            return  # it was on its way when the partition went
        skip = await self._included(batch, assigned.state.next_offset)
        if skip is None:
            return
        with self._timed("decode"):
            decoded = decode(
                batch.values[skip:],
                batch.offsets[skip:],
                batch.log_time_ms[skip:],
                {index - skip: name for index, name in batch.content_types.items() if index >= skip},
            )
        await self._step(assigned, decoded.batch, Counter(str(reject.reason) for reject in decoded.rejects))
        await self._outbox.dead_letters(batch, skip, decoded.rejects)
        assigned.state.next_offset = batch.end
        assigned.heard_s, assigned.heard_clock_ms = time.monotonic(), assigned.state.clock_ms
        self.metrics.decoded(len(batch) - skip, decoded)
        await asyncio.sleep(0)  # heartbeats and fetches live on this loop too

    async def _included(self, batch: PartitionBatch, next_offset: int) -> int | None:
        """How many rows of the batch the state includes already; None for all of it."""
        if batch.end <= next_offset:
            return None
        if batch.start > next_offset:
            beginning = (await self._offsets.beginning_offsets([TP(batch.topic, batch.partition)])).popitem()[1]
            if beginning < batch.start:
                raise OffsetGapError(
                    f"partition {batch.partition}: the state ends at {next_offset}, the batch begins at {batch.start}, "
                    f"and Kafka still has what is between"
                )
            self.metrics.gaps.inc(batch.start - next_offset)
            log.error("partition %d: Kafka deleted offsets %d-%d unread", batch.partition, next_offset, batch.start - 1)
        return int(np.searchsorted(batch.offsets, next_offset))

    async def _step(self, assigned: Assigned, rows: SubmitBatch, rejected: Mapping[str, int]) -> None:
        state = assigned.state
        tally, held_back = replace(state.tally), dict(state.throttles.held_back)
        with self._timed("step"):
            outcome = self._pipeline.step(state, rows, self._registry.registry, rejected)
        now_ms = int(time.time() * 1_000)
        alerts = [replace(alert, detected_ms=now_ms) for alert in outcome.alerts]
        await self._outbox.alerts(alerts)
        await self._outbox.commands(outcome.commands)
        if self._emits_panes:
            await self._outbox.panes(outcome.panes, amends=False)
            await self._outbox.panes(outcome.amendments, amends=True)
        self._push.tell(alerts)
        if outcome.panes:
            assigned.view.rates = _busiest(outcome.panes[-1])
        self.metrics.accounted(tally, state.tally, rejected)
        self.metrics.told(alerts, outcome.commands)
        self.metrics.limited(held_back, state.throttles.held_back)

    def _look(self, partition: int, assigned: Assigned) -> None:
        """Refresh what the gauges show."""
        state, view = assigned.state, assigned.view
        now_s = time.time()
        end = self._offsets.end_offset(TP(self._topic, partition))
        moved = state.next_offset != view.next_offset
        view.next_offset = state.next_offset
        view.end_offset = end if end is not None else view.end_offset
        if moved or not view.lag:
            view.advanced_at_s = now_s
        view.clock_ms = state.clock_ms
        view.tally = state.tally
        view.ports = len(state.groups.ports) - 1
        view.groups = len(state.groups.keys) - 1
        view.overflowed = state.groups.overflowed
        view.open_alerts = [episode.told for episode in state.episodes.open.values()]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.metrics.stage_seconds.labels(stage).inc(time.perf_counter() - began)


def _busiest(pane: Pane) -> dict[str, float]:
    """Submits a second of the busiest ports of a pane."""
    per_port = np.bincount(pane.groups.port_of[pane.group], weights=pane.submits)
    top = np.argsort(per_port)[-BUSIEST - 1 :]
    return {pane.groups.ports[code]: per_port[code] * 1_000 / PANE_MS for code in top.tolist() if per_port[code]}
