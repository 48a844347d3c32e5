"""From rows to closed panes: the one place that makes findings independent of how Kafka cut the batches.

A row belongs to the 10 s pane of its event time. A pane closes when event time has passed its end by the allowed
lateness; a row that comes for a closed pane is late: counted, reported as an amendment, never shown as now.

Event times may lie an hour ahead of the clock and late rows may come for hours while it stands; both are bounded here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.batch import Codes, Flags, Ints, SubmitBatch
from detectors.ceilings import Ceiling
from detectors.contract import PANE_MS, Pane
from detectors.event_time import Progress
from detectors.groups import OVERFLOW, Groups

_COMPACT_ROWS = 1 << 16
"""Rows that one open pane may hold before they are summed up: bounds memory, costs 10 ms at a million groups."""

_SPARSE = 16
"""With so many times more codes than rows, sorting the rows is cheaper than counting by code."""

Sums = npt.NDArray[np.int64]  # int64[6, g]: group, submits, retries, recipients, carried segments, first offset

_NO_ROWS: Sums = np.empty((6, 0), np.int64)


def _rows(batch: SubmitBatch, codes: Codes) -> Sums:
    retry = batch.is_retry.astype(np.int64)
    recipients = batch.recipients * (1 - retry)
    return np.stack([codes.astype(np.int64), 1 - retry, retry, recipients, batch.segments * recipients, batch.offset])


def _where(chosen: Flags, rows: Sums) -> Sums:
    return rows if chosen.all() else rows[:, chosen]


def _summed(rows: Sums) -> Sums:
    group = rows[0]
    codes = np.arange(group.max(initial=0) + 1)
    if len(codes) > _SPARSE * len(group):
        codes, group = np.unique(group, return_inverse=True)
    active = np.flatnonzero(np.bincount(group))
    sums = [np.bincount(group, weights=row)[active].astype(np.int64) for row in rows[1:5]]
    first = np.empty(len(codes), np.int64)
    first[group[::-1]] = rows[5, ::-1]  # of several assignments to one place the last stays: the earliest row
    return np.stack([codes[active], *sums, first[active]])


def _runs(bounds: Ints, turns: Ints, starts: Ints, late: Ints) -> Iterator[tuple[tuple[int, int, int], Ints]]:
    """The late rows by (bound, turn, start), in their order. Each may stand alone: one sort, not a look per key."""
    order = late[np.lexsort((starts[late], turns[late], bounds[late]))]
    edges = np.flatnonzero(np.diff(bounds[order]) | np.diff(turns[order]) | np.diff(starts[order])) + 1
    for rows in np.split(order, edges) if len(order) else ():
        yield (int(bounds[rows[0]]), int(turns[rows[0]]), int(starts[rows[0]])), rows


def _named(groups: Ints) -> int:
    """How many groups there are, the overflow left out."""
    return int((groups != OVERFLOW).sum())


def _beyond(limit: int, known: Ints, coming: Ints) -> Flags:
    """Which of the groups that come are beyond the first `limit` that the pane met? The overflow is none."""
    strange = ~np.isin(coming, known) & (coming != OVERFLOW)
    new, first = np.unique(coming[strange], return_index=True)
    room = max(0, limit - _named(known))
    admitted = new[np.argsort(first)][:room]
    beyond: Flags = strange & ~np.isin(coming, admitted)
    return beyond


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

    @property
    def entries(self) -> int:
        """At least as many as groups."""
        return sum(part.shape[1] for part in self.parts)

    def total(self) -> Sums:
        """Sums per group, ascending by group code."""
        self.parts = [_summed(np.concatenate([_NO_ROWS, *self.parts], axis=1))]
        self.pending = 0
        return self.parts[0]


@dataclass(slots=True, eq=False)
class OpenPanes:
    """What one partition still counts, by start of the pane; and its late rows, by (closed bound they met, turn of
    the late rows, pane).
    """

    counts: dict[int, PaneCounts] = field(default_factory=dict)
    late: dict[tuple[int, int, int], PaneCounts] = field(default_factory=dict)
    ahead_limit: int = 1 << 11
    """Groups that a pane may count while it lies ahead of the clock by more than a pane; other groups are counted there
    under the overflow. Only senders whose clock is fast get there; 360 such panes take 70 MB."""
    turn_rows: int = 1 << 16
    """Late rows after which all are told, though event time has not moved on: 33 MB if each is for another pane."""
    late_rows: int = 0  # so far
    ahead_overflowed: int = 0  # rows too far ahead for which their pane had no room

    @property
    def held(self) -> Codes:
        """The groups that are counted here."""
        panes = (*self.counts.values(), *self.late.values())
        codes = [part[0] for pane in panes for part in pane.parts]
        return np.unique(np.concatenate([np.empty(0, np.int64), *codes])).astype(np.int32)

    def ceilings(self, clock_ms: int) -> Mapping[str, Ceiling]:
        ahead = [_named(pane.total()[0]) for start, pane in self.counts.items() if start > clock_ms + PANE_MS]
        return {"groups_of_one_pane_ahead": Ceiling(max(ahead, default=0), self.ahead_limit, self.ahead_overflowed)}

    def add(self, batch: SubmitBatch, codes: Codes, progress: Progress, counted: Flags, lateness_ms: int) -> Flags:
        """Count the `counted` rows; returns which of them came too late for their pane."""
        starts = batch.event_time_ms // PANE_MS * PANE_MS
        bounds = (progress.before_ms - lateness_ms) // PANE_MS * PANE_MS
        late: Flags = counted & (starts < bounds)
        rows = _rows(batch, codes)
        on_time = counted & ~late
        self._make_room_ahead(on_time & (starts > progress.after_ms + PANE_MS), starts, rows)
        for start in np.unique(starts[on_time]).tolist():
            self.counts.setdefault(start, PaneCounts()).add(_where(on_time & (starts == start), rows))
        turns = (self.late_rows + np.cumsum(late) - late) // self.turn_rows
        self.late_rows += int(late.sum())
        for key, tardy in _runs(bounds, turns, starts, np.flatnonzero(late)):
            self.late.setdefault(key, PaneCounts()).add(rows[:, tardy])
        return late

    def _make_room_ahead(self, ahead: Flags, starts: Ints, rows: Sums) -> None:
        """Put the rows under the overflow, in place, whose groups come when their pane ahead of the clock is full.

        Exact, because a pane that is no longer ahead never is again: until then it counts such rows only.
        """
        for start in np.unique(starts[ahead]).tolist():
            pane = self.counts.setdefault(start, PaneCounts())
            coming = np.flatnonzero(ahead & (starts == start))
            if pane.entries + len(coming) > self.ahead_limit:
                refused = coming[_beyond(self.ahead_limit, pane.total()[0], rows[0, coming])]
                rows[0, refused] = OVERFLOW
                self.ahead_overflowed += len(refused)

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
        """Late rows, complete per key because the bound has moved on or there have been so many."""
        bound, turn = (clock_ms - lateness_ms) // PANE_MS * PANE_MS, self.late_rows // self.turn_rows
        for key in sorted(key for key in self.late if key[0] < bound or key[1] < turn):
            met, _, start = key
            yield _pane(start, met, self.late.pop(key).total(), groups)


def _pane(start_ms: int, watermark_ms: int, sums: Sums, groups: Groups) -> Pane:
    group, submits, retries, recipients, carried, first = sums
    return Pane(start_ms, watermark_ms, group.astype(np.int32), submits, retries, recipients, carried, first, groups)
