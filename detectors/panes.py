"""From rows to closed panes: the one place that makes findings independent of how Kafka cut the batches.

A row belongs to the 10 s pane of its event time. A pane closes when event time has passed its end by the allowed
lateness; a row that comes for a closed pane is late: counted, reported as an amendment, never shown as now.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.batch import Codes, Flags, Ints, SubmitBatch
from detectors.contract import PANE_MS, Pane
from detectors.event_time import Progress
from detectors.groups import Groups

_COMPACT_ROWS = 1 << 16
"""Rows that one open pane may hold before they are summed up: bounds memory, costs 10 ms at a million groups."""

Sums = npt.NDArray[np.int64]  # int64[6, g]: group, submits, retries, recipients, carried segments, first offset


def _rows(batch: SubmitBatch, codes: Codes) -> Sums:
    retry = batch.is_retry.astype(np.int64)
    carried = batch.segments * batch.recipients
    return np.stack([codes.astype(np.int64), 1 - retry, retry, batch.recipients, carried, batch.offset])


def _where(chosen: Flags, rows: Sums) -> Sums:
    return rows if chosen.all() else rows[:, chosen]


def _summed(rows: Sums) -> Sums:
    group = rows[0]
    active = np.flatnonzero(np.bincount(group))
    sums = [np.bincount(group, weights=row)[active].astype(np.int64) for row in rows[1:5]]
    first = np.empty(active[-1] + 1, np.int64)
    first[group[::-1]] = rows[5, ::-1]  # of several assignments to one place the last stays: the earliest row
    return np.stack([active, *sums, first[active]])


def _runs(bounds: Ints, starts: Ints, late: Ints) -> Iterator[tuple[int, int, Ints]]:
    """The late rows by (bound, start), in their order. Each may stand alone: one sort, not a look per pair."""
    order = late[np.lexsort((starts[late], bounds[late]))]
    edges = np.flatnonzero(np.diff(bounds[order]) | np.diff(starts[order])) + 1
    for rows in np.split(order, edges) if len(order) else ():
        yield int(bounds[rows[0]]), int(starts[rows[0]]), rows


@dataclass(slots=True, eq=False)
class PaneCounts:
    """What one pane has counted so far."""

    parts: list[Sums] = field(default_factory=list)
    pending: int = 0

    def add(self, rows: Sums) -> None:
        self.parts.append(rows)
        self.pending += rows.shape[1]
        if self.pending > _COMPACT_ROWS:
            self.total()

    def total(self) -> Sums:
        """Sums per group, ascending by group code."""
        self.parts = [_summed(np.concatenate(self.parts, axis=1))]
        self.pending = 0
        return self.parts[0]


@dataclass(slots=True, eq=False)
class OpenPanes:
    """What one partition still counts, by start of the pane; and its late rows, by (closed bound they met, pane)."""

    counts: dict[int, PaneCounts] = field(default_factory=dict)
    late: dict[tuple[int, int], PaneCounts] = field(default_factory=dict)

    def add(self, batch: SubmitBatch, codes: Codes, progress: Progress, counted: Flags, lateness_ms: int) -> Flags:
        """Count the `counted` rows; returns which of them came too late for their pane."""
        starts = batch.event_time_ms // PANE_MS * PANE_MS
        bounds = (progress.before_ms - lateness_ms) // PANE_MS * PANE_MS
        late: Flags = counted & (starts < bounds)
        rows = _rows(batch, codes)
        on_time = counted & ~late
        for start in np.unique(starts[on_time]).tolist():
            self.counts.setdefault(start, PaneCounts()).add(_where(on_time & (starts == start), rows))
        for bound, start, tardy in _runs(bounds, starts, np.flatnonzero(late)):
            self.late.setdefault((bound, start), PaneCounts()).add(rows[:, tardy])
        return late

    def sum_up(self) -> None:
        """Hold as little as can be; changes nothing that is counted."""
        for counts in (*self.counts.values(), *self.late.values()):
            counts.total()

    def close(self, progress: Progress, clock_ms: int, lateness_ms: int, groups: Groups) -> Iterator[Pane]:
        """The panes that event time has left behind, in order; each knows the clock that closed it."""
        for start in sorted(start for start in self.counts if start + PANE_MS + lateness_ms <= clock_ms):
            row = int(np.searchsorted(progress.after_ms, start + PANE_MS + lateness_ms))
            closing_ms = int(progress.after_ms[row]) if row < len(progress.after_ms) else clock_ms
            yield _pane(start, closing_ms - lateness_ms, self.counts.pop(start).total(), groups)

    def amendments(self, clock_ms: int, lateness_ms: int, groups: Groups) -> Iterator[Pane]:
        """Late rows, complete per (bound, pane) because the bound has moved on."""
        bound = (clock_ms - lateness_ms) // PANE_MS * PANE_MS
        for met, start in sorted(key for key in self.late if key[0] < bound):
            yield _pane(start, met, self.late.pop((met, start)).total(), groups)


def _pane(start_ms: int, watermark_ms: int, sums: Sums, groups: Groups) -> Pane:
    group, submits, retries, recipients, carried, first = sums
    return Pane(start_ms, watermark_ms, group.astype(np.int32), submits, retries, recipients, carried, first, groups)
