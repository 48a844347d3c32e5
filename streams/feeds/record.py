"""What an adapter is: lines of one kind of file in, records of the topic out.

An adapter translates and never judges: what the contract rejects still goes out, so that the dead letters hold it.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One submit on its way to Kafka."""

    key: bytes | None  # the access port; None where it can't be read
    value: bytes
    event_time_ms: int | None  # None where it can't be read; only the playback at a speed asks


class Adapter(Protocol):
    """It may hold half a record between two calls: one instance for one file, or one log with its rotations."""

    skipped: Counter[str]  # what was read and is no submit, by kind; a closed set of kinds

    def records(self, lines: Sequence[bytes], now_ms: int | None) -> list[Record]:
        """The submits in `lines` (without their line ends). `now_ms` is the time where the lines are being written as
        we read, None where they had been there before.
        """
        ...

    def end(self) -> list[Record]:
        """No more lines will come: what was held back, and is whole; the rest is counted."""
        ...
