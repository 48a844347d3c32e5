"""Health means that offsets advance."""

from streams.worker.http import STALLED_S, stalled
from streams.worker.metrics import PartitionView

NOW_S = 1_000.0


def test_a_partition_with_something_to_read_that_does_not_advance_is_stalled() -> None:
    views = {
        0: PartitionView(next_offset=5, end_offset=9, advanced_at_s=NOW_S - STALLED_S - 1),
        1: PartitionView(next_offset=5, end_offset=9, advanced_at_s=NOW_S - STALLED_S),
        2: PartitionView(next_offset=9, end_offset=9, advanced_at_s=NOW_S - 10 * STALLED_S),
    }
    assert stalled(views, NOW_S) == {0: STALLED_S + 1}
