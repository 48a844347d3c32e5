"""The traffic of a soak holds what a soak is about."""

from collections import Counter

import numpy as np

from detectors.pipeline import Pipeline
from detectors.registry import Registry
from streams.state_file import partition_of
from streams.worker.codec import decode
from tests.soak.traffic import SLICE_MS, Traffic

START_MS = 1_795_533_400_000
SLICES = 300


def test_every_kind_of_submit_is_in_it_all_along() -> None:
    traffic, pipeline = Traffic(1, 3_000, 2, START_MS), Pipeline()
    states = [pipeline.start("sms.submit.v1", partition) for partition in range(2)]
    sent = [0, 0]
    for at_ms in range(START_MS, START_MS + SLICES * SLICE_MS, SLICE_MS):
        for partition, lines in traffic.slice(at_ms).items():
            assert {partition_of(key.decode(), 2) for key, _ in lines} == {partition}
            offsets = np.arange(sent[partition], sent[partition] + len(lines))
            sent[partition] += len(lines)
            decoded = decode([value for _, value in lines], offsets, None)
            reasons = Counter(str(reject.reason) for reject in decoded.rejects)
            assert reasons.total() == 1
            pipeline.step(states[partition], decoded.batch, Registry(), reasons)
    for state, count in zip(states, sent, strict=True):
        tally = state.tally
        assert (tally.submits_in, tally.difference) == (count, 0)
        assert tally.misclocked == sum(tally.rejected.values()) == SLICES
        assert tally.late == SLICES
        assert tally.duplicate > SLICES / 6  # there must be something to repeat first
        assert len(tally.rejected) == 3
    assert sum(sent) > 3_000 * SLICES * SLICE_MS / 1_000


def test_the_same_seed_is_the_same_traffic() -> None:
    def drawn(seed: int) -> list[object]:
        traffic = Traffic(seed, 1_000, 2, START_MS)
        return [traffic.slice(START_MS + n * SLICE_MS) for n in range(3)]

    assert drawn(1) == drawn(1) != drawn(2)
