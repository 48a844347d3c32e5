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
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from aiokafka.errors import KafkaError
from faust.types import TP

from detectors.batch import SubmitBatch, empty_batch
from detectors.ceilings import Ceiling
from detectors.contract import PANE_MS, Detector, Finding, Pane
from detectors.groups import Gone, Groups
from detectors.pipeline import PartitionState, Pipeline
from detectors.registry import Registry
from streams.contract import RejectReason
from streams.noc.alertmanager import AlertmanagerPush
from streams.worker.checkpoint import Chain, CheckpointError, Checkpoints
from streams.worker.codec import cuts, decode
from streams.worker.image import Look
from streams.worker.memory import give_back
from streams.worker.metrics import BUSIEST, Metrics, PartitionView
from streams.worker.offsets import Offsets
from streams.worker.outbox import Outbox
from streams.worker.transport import PartitionBatch

log = logging.getLogger(__name__)

IDLE_GRACE_S = 30.0
"""A partition that brought nothing for so long moves on with the wall clock, that much behind it."""

SILENT_S = 5.0
"""Kafka answers a fetch twice a second; one that has not for so long tells nothing of what it holds."""

LAST_CHECKPOINT_S = 3.0
"""How long giving up waits for Kafka: less than the others of the group would wait for us (6 s)."""

COMMIT_S = 10.0
"""aiokafka tries a commit again without end, across rebalances too; one that takes longer is given up."""

MOST_OF_THE_TIME = 0.1
"""That checkpoints may take: when one was dear, the next one waits."""


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

    def forget(self, state: Any, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ANN401 - as above
        self.detector.forget(state, gone, groups, at_ms)

    def ceilings(self, state: Any) -> Mapping[str, Ceiling]:  # noqa: ANN401 - as above
        return self.detector.ceilings(state)


@dataclass(slots=True)
class Assigned:
    """A partition that this worker owns."""

    state: PartitionState
    view: PartitionView
    checkpointed_offset: int
    heard_s: float  # monotonic: when the last batch came
    heard_clock_ms: int  # where event time stood then
    chain: Chain = field(default_factory=Chain)
    is_valid: bool = True  # False once it is given up or a step broke off: no checkpoint may be made of it any more

    @contextmanager
    def stepping(self) -> Iterator[None]:
        """All that a step does to the state and to the outbox; half of it must not outlive us."""
        try:
            yield
        except BaseException:
            self.is_valid = False
            raise

    @property
    def has_moved(self) -> bool:
        return self.state.next_offset != self.checkpointed_offset


@dataclass(frozen=True, slots=True)
class Packed:
    """The next segment of a partition."""

    offset: int  # that the state includes
    at_s: float  # monotonic: when it stood there
    look: Look
    content: bytes
    cost_s: float


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
        self._rest_until_s = 0.0  # monotonic
        self._is_silent = False
        self.is_assigned = asyncio.Event()  # set while it knows which partitions are its own, and be it none

    @property
    def views(self) -> dict[int, PartitionView]:
        return {partition: assigned.view for partition, assigned in self._assigned.items()}

    async def batches(self, stream: AsyncIterable[PartitionBatch]) -> None:
        """Count every batch of the stream."""
        async for batch in stream:
            for first, last in pairwise(cuts(batch.values, batch.content_types)):
                async with self._whole:
                    if assigned := self._assigned.get(batch.partition):  # else it was on its way when that went
                        with assigned.stepping():
                            await self._take(assigned, batch.part(first, last))

    async def assign(self, partitions: Iterable[int]) -> None:
        """Take partitions over: exactly where their last checkpoint stands."""
        ours = self._assigned  # `release` puts another in its place, and what is taken over later goes astray with this
        wanted = [TP(self._topic, partition) for partition in sorted(partitions) if partition not in ours]
        committed = await self._offsets.committed(wanted)
        beginnings = await self._offsets.beginning_offsets(wanted)
        ends = await self._offsets.end_offsets(wanted)
        for tp in wanted:
            state, began_ms = await self._restore(tp, committed.get(tp), beginnings[tp], ends[tp])
            if ours is not self._assigned:
                return
            await self._offsets.seek(tp, state.next_offset)
            now_s = time.monotonic()
            view = PartitionView(committed_at_s=now_s, advanced_at_s=now_s)
            ours[tp.partition] = Assigned(
                state,
                view,
                state.next_offset,
                heard_s=now_s,
                heard_clock_ms=state.clock_ms,
                chain=Chain(began_s=now_s - (time.time() - began_ms / 1_000)),
            )
            self._push.tell(episode.told for episode in state.episodes.open.values())
            self._look(tp.partition, ours[tp.partition])
        give_back()  # of what was given up before, and of what reading the checkpoints took
        self.is_assigned.set()
        log.info("partitions %s are ours", [tp.partition for tp in wanted])

    async def _restore(
        self, tp: TP, committed: tuple[int, str] | None, beginning: int, end: int
    ) -> tuple[PartitionState, int]:
        """The state to go on with, and the time (ms) from which its checkpoint ages."""
        offset, metadata = committed or (beginning, "")
        if metadata:
            held = await self._checkpoints.follow(tp, offset, metadata)
            if held.state.next_offset > end:
                raise CheckpointError(
                    f"the checkpoint of partition {tp.partition} stands at {held.state.next_offset}, but {tp.topic} "
                    f"ends at {end} (made anew?): delete the group's offsets with "
                    "kafka-consumer-groups.sh --delete-offsets"
                )
            log.info("partition %d goes on at %d", tp.partition, held.state.next_offset)
            return held.state, held.began_ms
        state = self._pipeline.start(tp.topic, tp.partition)
        state.next_offset = max(offset, beginning)  # a commit without a pointer: somebody has set the group's offsets
        self._begin(state, tp.partition)
        log.info("partition %d starts afresh at %d", tp.partition, state.next_offset)
        return state, int(time.time() * 1_000)

    async def release(self) -> None:
        """Give all partitions up, with a last checkpoint if Kafka takes it soon enough."""
        self.is_assigned.clear()
        leaving, self._assigned = self._assigned, {}  # what is still on its way to us is left to the next owner
        try:
            async with asyncio.timeout(LAST_CHECKPOINT_S):
                await self._checkpoint(leaving)
        except (TimeoutError, KafkaError) as error:
            log.warning("Kafka took no last checkpoint (%s): the one before it holds", type(error).__name__)
        for assigned in leaving.values():
            assigned.is_valid = False
            self._push.forget(episode.told.alert_id for episode in assigned.state.episodes.open.values())

    async def checkpoint(self) -> None:
        """Make durable what was counted so far, unless the last time was too dear to do it again already."""
        if time.monotonic() >= self._rest_until_s:
            await self._checkpoint(self._assigned)

    async def _checkpoint(self, ours: Mapping[int, Assigned]) -> None:
        async with self._one_checkpoint:
            async with self._whole:  # a step that is under way moves its partition first
                due = {p: a for p, a in ours.items() if a.is_valid and (a.has_moved or a.chain.is_old)}
            packed = {partition: await self._pack(assigned) for partition, assigned in due.items()}
            if packed:
                await self._commit(due, packed)
                cost_s = sum(one.cost_s for one in packed.values())
                self._rest_until_s = time.monotonic() + cost_s * (1 / MOST_OF_THE_TIME - 1)
            for assigned in ours.values():
                if not assigned.has_moved:
                    assigned.view.committed_at_s = time.monotonic()

    async def _pack(self, assigned: Assigned) -> Packed:
        """Only the state itself must stand still meanwhile, and the loop with it."""
        async with self._whole:
            began_s = time.monotonic()
            with self._timed("pack"):
                offset, look = assigned.state.next_offset, assigned.chain.look(assigned.state)
            blocked_s = time.monotonic() - began_s
        content, cpu_s = await asyncio.to_thread(_packed, look)
        return Packed(offset, began_s, look, content, blocked_s + cpu_s)

    async def _commit(self, due: Mapping[int, Assigned], packed: Mapping[int, Packed]) -> None:
        await self._outbox.settle()  # 1: what was said has arrived
        written = {  # 2: the states too
            partition: await self._checkpoints.write(partition, one.content) for partition, one in packed.items()
        }
        if not all(assigned.is_valid for assigned in due.values()):
            return
        if lost := [partition for partition, one in written.items() if not due[partition].chain.stands(one)]:
            for partition in lost:
                due[partition].chain.begin_anew()
            log.error("the state topic has lost checkpoints of partitions %s: the next ones are whole", lost)
            return
        try:
            async with asyncio.timeout(COMMIT_S):
                is_ours = await self._offsets.commit(  # 3: behind 2, the chunks
                    {
                        TP(self._topic, partition): (
                            one.offset,
                            str(due[partition].chain.pointer(written[partition].segment)),
                        )
                        for partition, one in packed.items()
                    }
                )
        except TimeoutError:
            log.warning("Kafka took no commit within %g s", COMMIT_S)
            return
        if not is_ours:
            self.metrics.refused_commits.inc()
            log.warning("the group refused our commit: partitions %s have another owner", sorted(packed))
            return
        for partition, one in packed.items():
            due[partition].checkpointed_offset = one.offset
            due[partition].view.committed_at_s = one.at_s
            due[partition].chain.extend(written[partition].segment, len(one.content), one.look.digests)

    async def tick(self) -> None:
        """Once a second: move idle partitions on, refresh the gauges."""
        async with self._whole:
            for partition, assigned in list(self._assigned.items()):
                self._look(partition, assigned)
                quiet_ms = int((time.monotonic() - assigned.heard_s - IDLE_GRACE_S) * 1_000)
                if quiet_ms > 0 and assigned.heard_clock_ms and assigned.view.is_caught_up:
                    with assigned.stepping():
                        await self._step(assigned, empty_batch(assigned.heard_clock_ms + quiet_ms), {})
        self._tell_silence()

    def _tell_silence(self) -> None:
        now_s = time.monotonic()
        is_silent = bool(self._assigned) and all(
            now_s - max(view.answered_at_s, view.advanced_at_s) > SILENT_S for view in self.views.values()
        )
        if is_silent and not self._is_silent:
            log.warning("Kafka does not answer: waiting for it")
        elif self._is_silent and not is_silent:
            log.info("Kafka answers again")
        self._is_silent = is_silent

    async def _take(self, assigned: Assigned, batch: PartitionBatch) -> None:
        skip = await self._included(batch, assigned.state.next_offset)
        if skip is None:
            return
        if batch.corrupt:
            await self._reject_whole(assigned, batch)
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
        self._move(assigned, batch.end)
        self.metrics.decoded(len(batch) - skip, decoded)
        await asyncio.sleep(0)  # heartbeats and fetches live on this loop too

    async def _reject_whole(self, assigned: Assigned, batch: PartitionBatch) -> None:
        start = max(batch.start, assigned.state.next_offset)
        log.error("partition %d: can't read offsets %d-%d: %s", batch.partition, start, batch.end - 1, batch.corrupt)
        await self._step(assigned, empty_batch(0), {str(RejectReason.CORRUPT_BATCH): batch.end - start})
        await self._outbox.corrupt(batch, start)
        self._move(assigned, batch.end)

    @staticmethod
    def _move(assigned: Assigned, next_offset: int) -> None:
        assigned.state.next_offset = next_offset
        assigned.heard_s, assigned.heard_clock_ms = time.monotonic(), assigned.state.clock_ms

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
        now_s = time.monotonic()
        tp = TP(self._topic, partition)
        end = self._offsets.end_offset(tp)
        moved = state.next_offset != view.next_offset
        view.next_offset = state.next_offset
        view.end_offset = end if end is not None else view.end_offset
        view.answered_at_s = self._offsets.answered_at_s(tp)
        view.is_caught_up = not view.lag and now_s - view.answered_at_s < SILENT_S
        if moved or view.is_caught_up:
            view.advanced_at_s = now_s
        view.clock_ms = state.clock_ms
        view.tally = state.tally
        before, view.tables = view.tables, self._pipeline.ceilings(state)
        for name, table in view.tables.items():
            if table.lost and not (name in before and before[name].lost):
                log.warning("partition %d: table %s is full, what does not fit is counted", partition, name)
        view.open_alerts = [episode.told for episode in state.episodes.open.values()]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.metrics.stage_seconds.labels(stage).inc(time.perf_counter() - began)


def _packed(look: Look) -> tuple[bytes, float]:
    """And the CPU seconds it took."""
    began_s = time.thread_time()
    return look.packed(), time.thread_time() - began_s


def _busiest(pane: Pane) -> dict[str, float]:
    """Submits a second of the busiest ports of a pane."""
    per_port = np.bincount(pane.groups.port_of[pane.group], weights=pane.submits)
    top = np.argsort(per_port)[-BUSIEST - 1 :]
    return {pane.groups.ports[code]: per_port[code] * 1_000 / PANE_MS for code in top.tolist() if per_port[code]}
