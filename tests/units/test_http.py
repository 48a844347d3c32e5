"""Health means that offsets advance."""

from streams.worker.http import STALLED_S, stalled
from streams.worker.metrics import PartitionView

NOW_S = 1_000.0


def test_a_partition_that_has_not_advanced_for_long_is_stalled() -> None:
    """Where Kafka says that there is nothing to read, the tick counts it as an advance; so no tick, no advance."""
    views = {
        0: PartitionView(next_offset=5, end_offset=9, advanced_at_s=NOW_S - STALLED_S - 1),
        1: PartitionView(next_offset=5, end_offset=9, advanced_at_s=NOW_S - STALLED_S),
        2: PartitionView(next_offset=9, end_offset=9, advanced_at_s=NOW_S - 10 * STALLED_S),
    }
    assert stalled(views, NOW_S) == {0: STALLED_S + 1, 2: 10 * STALLED_S}
