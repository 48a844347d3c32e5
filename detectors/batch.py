"""The rows that enter the pure core: submits of one partition, in arrival order, as equal-length columns.

Numbers are numpy arrays; names and texts stay Python strings until `groups` interns them, because a dictionary look-up
per row is cheaper than any conversion of strings to arrays (docs/benchmarks.md).
"""

from dataclasses import dataclass, fields, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

NO_TIME = 0
"""`received_ms` of a row whose collector did not say when it arrived."""


@dataclass(frozen=True, slots=True, eq=False)
class SubmitBatch:
    """Submits of one partition in arrival order; every column has n rows. Treat all of it as read-only.

    `floor_ms` is the shell's word that no older event is to be expected (idle partitions, end of a file): time moves
    to it after the rows, also when n == 0. 0 says nothing.
    """

    offset: Ints  # Kafka offset or line number of the record; rows of one block share it
    event_time_ms: Ints
    received_ms: Ints  # NO_TIME where unknown
    event_id: Hashes  # 64-bit hash of the contract's event_id
    access_port: list[str]
    extension: list[str | None]
    account: list[str | None]
    carrier: list[str | None]
    text: list[str | None]  # None is 'not text, or a part that can't be judged alone'
    recipients: Ints  # recipients of the submit, >= 1
    segments: Ints  # segments per recipient, >= 1
    is_retry: Flags  # repeats a submit that was not accepted
    floor_ms: int = 0

    def __len__(self) -> int:
        return len(self.offset)

    def part(self, rows: slice) -> "SubmitBatch":
        """Consecutive rows."""
        if rows == slice(0, len(self)):
            return self
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return replace(self, **{name: column[rows] for name, column in columns.items() if not isinstance(column, int)})

    def where(self, keep: Flags) -> "SubmitBatch":
        """The rows that `keep` marks."""
        if keep.all():
            return self
        marks = keep.tolist()
        columns: dict[str, Any] = {}
        for column in fields(self):
            values = getattr(self, column.name)
            if isinstance(values, np.ndarray):
                columns[column.name] = values[keep]
            elif isinstance(values, list):
                columns[column.name] = list(compress(values, marks))
        return replace(self, **columns)


def empty_batch(floor_ms: int) -> SubmitBatch:
    """A batch without rows: it only moves time."""
    ints = np.empty(0, np.int64)
    return SubmitBatch(
        offset=ints,
        event_time_ms=ints,
        received_ms=ints,
        event_id=np.empty(0, np.uint64),
        access_port=[],
        extension=[],
        account=[],
        carrier=[],
        text=[],
        recipients=ints,
        segments=ints,
        is_retry=np.empty(0, np.bool_),
        floor_ms=floor_ms,
    )
