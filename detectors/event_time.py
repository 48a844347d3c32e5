"""Where does event time stand, row by row? Guards it against poisoned clocks, and tells late from on time.

Every answer for a row depends on earlier rows only, so it does not matter where batches were cut.
"""

from dataclasses import dataclass

import numpy as np

from detectors.batch import NO_TIME, Flags, Ints, SubmitBatch

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_SHANGHAI_MS = 8 * HOUR_MS  # ahead of UTC, without summer time since 1991
_LEFT_BEHIND_ROWS = 100
_LEFT_BEHIND_MS = 300_000
"""So many rows in a row, over so much event time, that agree with each other and not with the clock. One broken sender
among others never has the word for so long, and a broken clock that stands still does not get on."""

_NEVER = np.int64(np.iinfo(np.int64).min)


def midnight(at_ms: int) -> int:
    """When the day began in Shanghai."""
    return at_ms - (at_ms + _SHANGHAI_MS) % DAY_MS


def hour_of(at_ms: int) -> int:
    """0-23, of the day in Shanghai."""
    return (at_ms - midnight(at_ms)) // HOUR_MS


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """What one batch did to event time. Shapes: all [n]."""

    misclocked: Flags
    before_ms: Ints  # the clock as each row found it
    after_ms: Ints  # the clock behind each row

    def part(self, rows: slice) -> "Progress":
        return Progress(self.misclocked[rows], self.before_ms[rows], self.after_ms[rows])


@dataclass(slots=True)
class Doubt:
    """The latest rows, if all of them without `received_ms` and too far ahead of the clock, and near each other."""

    rows: int = 0
    since_ms: int = 0  # event time of the first
    until_ms: int = 0  # the latest event time among them

    def add(self, event_ms: int, near_ms: int) -> None:
        if not self.rows or not self.since_ms - near_ms <= event_ms <= self.until_ms + near_ms:
            self.rows, self.since_ms, self.until_ms = 0, event_ms, event_ms
        self.rows += 1
        self.until_ms = max(self.until_ms, event_ms)

    @property
    def is_over(self) -> bool:
        """Is it the clock that has been left behind?"""
        return self.rows >= _LEFT_BEHIND_ROWS and self.until_ms - self.since_ms >= _LEFT_BEHIND_MS


@dataclass(frozen=True, slots=True)
class EventClock:
    """The guards. Contract: a time too far from `received_ms` is misclocked (counted, used for no window)."""

    ahead_ms: int = HOUR_MS
    behind_ms: int = 7 * DAY_MS
    ahead_unreceived_ms: int = DAY_MS  # without received_ms: this far ahead of the clock is misclocked

    def advance(self, clock_ms: int, doubt: Doubt, batch: SubmitBatch, counts: Flags) -> Progress:
        """Move the clock over the rows that count; 0 is a clock that has not started. `doubt` is brought up to date.

        A row pushes the clock no further than its own `received_ms`: one that claims to be 59 minutes ahead is
        believed, but must not make everybody else late.
        """
        received = batch.received_ms
        stamped = received != NO_TIME
        event = batch.event_time_ms
        misclocked = stamped & ((event > received + self.ahead_ms) | (event < received - self.behind_ms))
        claim = np.where(stamped, np.minimum(event, received), event)
        claim = np.where(counts & ~misclocked, claim, _NEVER)
        if doubt.rows or not stamped.all():
            self._doubt(clock_ms, doubt, claim, misclocked, counts & ~stamped)
        clock = np.maximum.accumulate(np.concatenate([[np.int64(clock_ms)], claim]))
        return Progress(misclocked=misclocked & counts, before_ms=clock[:-1], after_ms=clock[1:])

    def _doubt(self, clock_ms: int, doubt: Doubt, claim: Ints, misclocked: Flags, unstamped: Flags) -> None:
        """Mark unstamped rows that leap ahead of the clock, in place. Leaps are rare: only then row by row.

        By the letter of the contract all that comes after a gap of more than a day would be misclocked for ever, for
        nothing moves the watermark that it is measured by. So the watermark is moved when nobody vouches for it any
        more. The rows that bore witness stay misclocked, as the contract has it.
        """
        before = np.maximum.accumulate(np.concatenate([[np.int64(clock_ms)], claim]))[:-1]
        if not doubt.rows and not (unstamped & (before > 0) & (claim > before + self.ahead_unreceived_ms)).any():
            return
        for row, (event_ms, doubtful) in enumerate(zip(claim.tolist(), unstamped.tolist(), strict=True)):
            if event_ms == _NEVER:
                continue
            if doubtful and 0 < clock_ms < event_ms - self.ahead_unreceived_ms:
                doubt.add(event_ms, self.ahead_unreceived_ms)
                if not doubt.is_over:
                    claim[row] = _NEVER
                    misclocked[row] = True
                    continue
            doubt.rows = 0
            clock_ms = max(clock_ms, event_ms)
