"""A batch that is cut into parts is the same batch: no record and no offset is lost, doubled or named wrongly."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.worker.transport import PartitionBatch


@given(steps=st.lists(st.integers(1, 3), max_size=8), ends=st.sets(st.integers(1, 7)), after=st.integers(1, 3))
def test_parts_follow_each_other_and_are_the_whole(steps: list[int], ends: set[int], after: int) -> None:
    offsets = 10 + np.cumsum([0, *steps], dtype=np.int64)[: len(steps)]
    n = len(offsets)
    values = [str(offset).encode() if offset % 2 else None for offset in offsets.tolist()]
    batch = PartitionBatch(
        topic="in",
        partition=1,
        start=7,
        end=10 + sum(steps) + after,
        values=values,
        keys=[b"k%d" % index for index in range(n)],
        offsets=offsets,
        log_time_ms=offsets * 2,
        content_types={index: b"t%d" % index for index in range(0, n, 2)},
        replayed={index: index for index in range(1, n, 3)},
        size_bytes=sum(len(value or b"") for value in values),
    )
    bounds = [0, *sorted(end for end in ends if end < n), n]

    parts = [batch.part(first, last) for first, last in pairwise(bounds)]

    assert (parts[0].start, parts[-1].end) == (batch.start, batch.end)
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert all((part.start <= part.offsets).all() and (part.offsets < part.end).all() for part in parts)
    for column in ("values", "keys", "offsets", "log_time_ms"):
        assert [x for part in parts for x in getattr(part, column)] == list(getattr(batch, column))
    for named in ("content_types", "replayed"):
        moved = [
            (first + i, x) for first, part in zip(bounds, parts, strict=False) for i, x in getattr(part, named).items()
        ]
        assert dict(moved) == getattr(batch, named)
    assert sum(part.size_bytes for part in parts) == batch.size_bytes
