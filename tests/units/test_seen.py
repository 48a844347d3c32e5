"""First wins, redeliveries are found, memory is bounded."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.seen import SeenIds


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def test_the_first_of_an_id_counts_and_every_later_one_does_not() -> None:
    seen = SeenIds()
    assert seen.first_seen(ids(5, 7, 5, 5)).tolist() == [True, True, False, False]
    assert seen.first_seen(ids(7, 9)).tolist() == [False, True]


def test_an_empty_batch_is_fine() -> None:
    assert SeenIds().first_seen(ids()).tolist() == []


def test_ids_that_share_a_slot_are_told_apart() -> None:
    colliding = [1 + 4096 * k for k in range(200)]  # equal low bits
    seen = SeenIds()
    assert seen.first_seen(ids(*colliding)).all()
    assert not seen.first_seen(ids(*colliding)).any()


@pytest.mark.parametrize(
    "ids_in_a_row", [np.arange(1, 200_001), np.arange(1, 200_001) << 40, np.arange(200_000) * 2**20 + 1]
)
@pytest.mark.timeout(20)
def test_neighbours_do_not_crowd_each_other(ids_in_a_row: np.ndarray) -> None:
    """Linear probing by the lowest bits would take minutes for these."""
    seen, hashes = SeenIds(), ids_in_a_row.astype(np.uint64)
    assert all(seen.first_seen(some).all() for some in np.array_split(hashes, 20))
    assert not seen.first_seen(hashes).any()


def test_at_least_one_generation_is_remembered_and_at_most_two() -> None:
    seen = SeenIds(generation=100)
    seen.first_seen(np.arange(1, 301, dtype=np.uint64))
    assert not seen.first_seen(np.arange(201, 301, dtype=np.uint64)).any()
    assert seen.first_seen(ids(1)).tolist() == [True]


def test_memory_stays_under_its_ceiling() -> None:
    seen = SeenIds(generation=1_000)
    for start in range(1, 1_000_000, 10_007):
        seen.first_seen(np.arange(start, start + 10_007, dtype=np.uint64))
    tables = [ids._table for ids in seen.generations]
    assert sum(map(len, tables)) <= 2 * 32_768  # a generation and one call's ids, half full
    assert sum(len(ids.order) for ids in seen.generations) <= 4 * 1_024


@given(st.lists(st.integers(1, 60), max_size=300), st.lists(st.integers(0, 300)))
def test_cuts_do_not_matter(values: list[int], cuts: list[int]) -> None:
    whole = SeenIds(generation=16).first_seen(ids(*values))
    parts, seen = [], SeenIds(generation=16)
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    for start, stop in pairwise(bounds):
        parts.append(seen.first_seen(ids(*values[start:stop])))
    assert np.concatenate(parts).tolist() == whole.tolist()


@given(st.lists(st.integers(1, 40), max_size=200))
def test_below_a_generation_it_is_exactly_a_set(values: list[int]) -> None:
    expected = [value not in values[:row] for row, value in enumerate(values)]
    assert SeenIds(generation=1_000).first_seen(ids(*values)).tolist() == expected
