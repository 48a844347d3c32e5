"""The visible composition: batch -> first seen -> on time -> panes -> findings -> alerts -> throttle proposals.

The same `step` runs in the worker, in a replay from a file and in tests. It is a function of (settings, state, batch,
registry): no clock, no I/O.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detectors import catalog
from detectors.alerts import Episodes
from detectors.batch import Flags, Ints, SubmitBatch
from detectors.ceilings import Ceiling
from detectors.contract import PANE_MS, Alert, Command, Detector, Finding, Pane
from detectors.event_time import Doubt, EventClock, Progress
from detectors.forgetting import FORGET_MS, Retention
from detectors.groups import Groups
from detectors.panes import OpenPanes
from detectors.registry import Registry
from detectors.seen import SeenIds
from detectors.throttle import ThrottlePolicy, Throttles, propose, release, renew


@dataclass(slots=True)
class Tally:
    """The balance of a partition: submits_in = counted + late + misclocked + duplicate + rejected, at every step."""

    submits_in: int = 0
    counted: int = 0
    late: int = 0
    misclocked: int = 0
    duplicate: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    first_event_ms: int = 0  # of the submits that were counted or late; 0 = none yet
    last_event_ms: int = 0

    @property
    def difference(self) -> int:
        """0, or submits have been lost."""
        accounted = self.counted + self.late + self.misclocked + self.duplicate + sum(self.rejected.values())
        return self.submits_in - accounted


@dataclass(slots=True, eq=False)
class PartitionState:
    """All that is known about one partition. It moves with the partition; `next_offset` says what it includes."""

    groups: Groups
    seen: SeenIds
    episodes: Episodes
    detectors: dict[str, Any]  # detector name -> its state
    next_offset: int = 0
    clock_ms: int = 0  # largest event time that counted; 0 = nothing yet
    doubt: Doubt = field(default_factory=Doubt)
    open: OpenPanes = field(default_factory=OpenPanes)
    throttles: Throttles = field(default_factory=Throttles)
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Outcome:
    """What one step says to the world, each in the order in which it came about."""

    panes: list[Pane] = field(default_factory=list)
    amendments: list[Pane] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Settings of the whole way from rows to alerts."""

    detectors: tuple[Detector[Any], ...] = field(default_factory=catalog.detectors)
    lateness_ms: int = 10_000  # how long a pane waits for stragglers
    clock: EventClock = field(default_factory=EventClock)
    throttle: ThrottlePolicy = field(default_factory=ThrottlePolicy)
    remembered_ids: int = 1 << 19  # event ids, per partition, among which redeliveries are surely found
    retention: Retention = field(default_factory=Retention)
    group_limit: int = Groups.group_limit
    port_limit: int = Groups.port_limit
    episode_limit: int = Episodes.limit

    def start(self, topic: str, partition: int) -> PartitionState:
        return PartitionState(
            groups=Groups(self.group_limit, self.port_limit),
            seen=SeenIds(self.remembered_ids),
            episodes=Episodes(topic, partition, self.episode_limit),
            detectors={detector.name: detector.start() for detector in self.detectors},
        )

    def step(
        self, state: PartitionState, batch: SubmitBatch, registry: Registry, rejected: Mapping[str, int] | None = None
    ) -> Outcome:
        """Take the rows of a batch, and the count of the rejects (by reason) that came between them."""
        for reason, count in (rejected or {}).items():
            state.tally.rejected[reason] = state.tally.rejected.get(reason, 0) + count
            state.tally.submits_in += count
        outcome, start = Outcome(), 0
        fresh = state.seen.first_seen(batch.event_id)
        progress = self.clock.advance(state.clock_ms, state.doubt, batch, fresh)
        for row in _forgetting_rows(state.clock_ms, progress.after_ms):
            self._count(state, batch, fresh, progress, slice(start, row), registry)
            self._move(state, outcome, progress, int(progress.after_ms[row]), registry)
            start = row
        self._count(state, batch, fresh, progress, slice(start, len(batch)), registry)
        clock_ms = int(progress.after_ms[-1]) if len(batch) else state.clock_ms
        self._move(state, outcome, progress, max(clock_ms, batch.floor_ms), registry)
        return outcome

    def ceilings(self, state: PartitionState) -> Mapping[str, Ceiling]:
        """All tables of a partition, by the name that metrics show."""
        tables = {**state.groups.ceilings(), **state.open.ceilings(state.clock_ms), **state.episodes.ceilings()}
        for detector in self.detectors:
            tables.update(detector.ceilings(state.detectors[detector.name]))
        return tables

    def _count(
        self,
        state: PartitionState,
        batch: SubmitBatch,
        fresh: Flags,
        progress: Progress,
        rows: slice,
        registry: Registry,
    ) -> None:
        """Put consecutive rows into the open panes."""
        part, fresh, progress = batch.part(rows), fresh[rows], progress.part(rows)
        usable = fresh & ~progress.misclocked
        codes = np.zeros(len(part), np.int32)
        codes[usable] = state.groups.intern(part.where(usable), registry)
        late = state.open.add(part, codes, progress, usable, self.lateness_ms)
        _account(state, part, fresh, progress.misclocked, late)

    def _move(
        self, state: PartitionState, outcome: Outcome, progress: Progress, clock_ms: int, registry: Registry
    ) -> None:
        """Move the clock, close what it leaves behind, and forget if it is time to.

        A row that makes it time finds the panes before it closed and the tables relieved: that depends on rows alone.
        """
        due = clock_ms // FORGET_MS > state.clock_ms // FORGET_MS
        state.clock_ms = clock_ms
        self._close(state, outcome, progress, registry)
        if due:
            self._forget(state, registry, clock_ms // FORGET_MS * FORGET_MS)

    def _forget(self, state: PartitionState, registry: Registry, at_ms: int) -> None:
        state.groups.know(registry)
        gone = self.retention.gone(state.groups, state.open.held, registry, at_ms)
        for detector in self.detectors:
            detector.forget(state.detectors[detector.name], gone, state.groups, at_ms)
        if len(gone.groups) or len(gone.ports):
            state.groups = state.groups.successor()
            state.groups.forget(gone)

    def _close(self, state: PartitionState, outcome: Outcome, progress: Progress, registry: Registry) -> None:
        for pane in state.open.close(progress, state.clock_ms, self.lateness_ms, state.groups):
            outcome.panes.append(pane)
            state.groups.note(pane.group, pane.start_ms)
            self._resolve(state, outcome, pane.start_ms, pane.watermark_ms)
            self._judge(state, outcome, pane, registry)
        watermark_ms = state.clock_ms - self.lateness_ms
        self._resolve(state, outcome, watermark_ms // PANE_MS * PANE_MS, watermark_ms)
        outcome.amendments.extend(state.open.amendments(state.clock_ms, self.lateness_ms, state.groups))

    def _judge(self, state: PartitionState, outcome: Outcome, pane: Pane, registry: Registry) -> None:
        findings: list[Finding] = []
        for detector in self.detectors:
            findings += detector.step(state.detectors[detector.name], pane, registry)
        told = list(state.episodes.tell(findings, pane.watermark_ms))
        outcome.alerts += told
        outcome.commands += renew(self.throttle, state.throttles, pane.end_ms, registry)
        outcome.commands += propose(
            self.throttle,
            state.throttles,
            told,
            now_ms=pane.end_ms,
            submits_per_s=int(pane.submits.sum()) * 1_000 / PANE_MS,
            registry=registry,
        )

    @staticmethod
    def _resolve(state: PartitionState, outcome: Outcome, now_ms: int, watermark_ms: int) -> None:
        resolved = list(state.episodes.resolve(now_ms, watermark_ms))
        outcome.alerts += resolved
        outcome.commands += release(state.throttles, resolved)


def _forgetting_rows(clock_ms: int, after_ms: Ints) -> list[int]:
    """The rows that move the clock over a time of forgetting."""
    if not len(after_ms) or clock_ms // FORGET_MS == after_ms[-1] // FORGET_MS:
        return []
    turns = np.concatenate([[np.int64(clock_ms)], after_ms]) // FORGET_MS
    rows: list[int] = np.flatnonzero(np.diff(turns)).tolist()
    return rows


def _account(state: PartitionState, batch: SubmitBatch, fresh: Flags, misclocked: Flags, late: Flags) -> None:
    tally = state.tally
    rows, unique, wrong, tardy = len(batch), int(fresh.sum()), int(misclocked.sum()), int(late.sum())
    tally.submits_in += rows
    tally.duplicate += rows - unique
    tally.misclocked += wrong
    tally.late += tardy
    tally.counted += unique - wrong - tardy
    if unique > wrong:
        usable = batch.event_time_ms[fresh & ~misclocked]
        first_ms = int(usable.min())
        tally.first_event_ms = min(tally.first_event_ms or first_ms, first_ms)
        tally.last_event_ms = max(tally.last_event_ms, int(usable.max()))
