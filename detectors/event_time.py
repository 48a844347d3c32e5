"""Where does event time stand, row by row? Guards it against poisoned clocks, and tells late from on time.

Every answer for a row depends on earlier rows only, so it does not matter where batches were cut.
"""

from dataclasses import dataclass

import numpy as np

from detectors.batch import NO_TIME, Flags, Ints, SubmitBatch

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
_NEVER = np.int64(np.iinfo(np.int64).min)


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """What one batch did to event time. Shapes: all [n]."""

    misclocked: Flags
    before_ms: Ints  # the clock as each row found it
    after_ms: Ints  # the clock behind each row


@dataclass(frozen=True, slots=True)
class EventClock:
    """The guards. Contract: a time too far from `received_ms` is misclocked (counted, used for no window)."""

    ahead_ms: int = HOUR_MS
    behind_ms: int = 7 * DAY_MS
    ahead_unreceived_ms: int = DAY_MS  # without received_ms: this far ahead of the clock is misclocked

    def advance(self, clock_ms: int, batch: SubmitBatch, counts: Flags) -> Progress:
        """Move the clock over the rows that count; 0 is a clock that has not started.

        A row pushes the clock no further than its own `received_ms`: one that claims to be 59 minutes ahead is
        believed, but must not make everybody else late.
        """
        received = batch.received_ms
        stamped = received != NO_TIME
        event = batch.event_time_ms
        misclocked = stamped & ((event > received + self.ahead_ms) | (event < received - self.behind_ms))
        claim = np.where(stamped, np.minimum(event, received), event)
        claim = np.where(counts & ~misclocked, claim, _NEVER)
        if not stamped.all():
            self._doubt(clock_ms, claim, misclocked, counts & ~stamped)
        clock = np.maximum.accumulate(np.concatenate([[np.int64(clock_ms)], claim]))
        return Progress(misclocked=misclocked & counts, before_ms=clock[:-1], after_ms=clock[1:])

    def _doubt(self, clock_ms: int, claim: Ints, misclocked: Flags, unstamped: Flags) -> None:
        """Mark unstamped rows that leap ahead of the clock, in place. Leaps are rare: only then row by row."""
        before = np.maximum.accumulate(np.concatenate([[np.int64(clock_ms)], claim]))[:-1]
        if not (unstamped & (before > 0) & (claim > before + self.ahead_unreceived_ms)).any():
            return
        for row, (event_ms, doubtful) in enumerate(zip(claim.tolist(), unstamped.tolist(), strict=True)):
            if doubtful and 0 < clock_ms < event_ms - self.ahead_unreceived_ms:
                claim[row] = _NEVER
                misclocked[row] = True
            else:
                clock_ms = max(clock_ms, event_ms)
