"""A state is cut into pages and put together again to the last bit, and only what changed is written."""

from typing import Any

import cramjam
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.batch import empty_batch
from detectors.pipeline import PartitionState, Pipeline
from detectors.registry import Enterprise, Filing, PortLease, Registry
from streams.records import port_counts
from streams.worker.image import (
    PAGE_BYTES,
    STATE_VERSION,
    ImageError,
    NewerStateError,
    Pages,
    pack,
    unpack,
)
from streams.worker.older import MIGRATIONS
from tests.rows import START_MS, Row, batch
from tests.states import OLD, plain

PIPELINE = Pipeline(remembered_ids=256)
REGISTRY = Registry(
    ports=(PortLease(access_port="10690010", lessee_id="E0", customer_type="enterprise"),),
    filings=(Filing(access_port="10690010", extension="01", signature="青禾银行", enterprise_id="E0"),),
    enterprises=(Enterprise(enterprise_id="E0", name="青禾银行"),),
    version="1",
)


def rows(start: int, stop: int) -> list[Row]:
    """Two ports; every fiftieth submit is a redelivery of one from long before, every thirtieth has a foreign name."""
    return [
        Row(
            id=n if n % 50 else n // 2,
            at_ms=n * 100,
            port=("10690010", "10690020")[n % 2],
            text=f"【{'无名商城' if n % 30 == 0 else '青禾银行'}】您的验证码是482913",
        )
        for n in range(start, stop)
    ]


def test_it_comes_back_to_the_last_bit() -> None:
    state = PIPELINE.start("t", 3)
    PIPELINE.step(state, batch(rows(0, 2_000)), REGISTRY)
    assert plain(unpack([pack(state)], PIPELINE)) == plain(state)
    assert state.episodes.open
    assert state.open.counts


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 2_500), st.booleans(), st.integers(1, 2_000)), min_size=1, max_size=6))
def test_a_whole_image_and_what_changed_since_make_the_state(steps: list[tuple[int, bool, int]]) -> None:
    """Whether or not the writes in between became durable."""
    state, pages, segments, at = PIPELINE.start("t", 0), Pages(), list[bytes](), 0
    for n, is_durable, ports in steps:
        sent = [Row(id=k, at_ms=k * 40, port=f"1069{k % ports:04d}", extension=str(k % 7)) for k in range(at, at + n)]
        PIPELINE.step(state, batch(sent), REGISTRY)
        at += n
        look = pages.look(state)
        if is_durable:
            segments.append(look.packed())
            pages.held = look.digests
    segments.append(pages.look(state).packed())
    assert plain(unpack(segments, PIPELINE)) == plain(state)


def test_only_what_changed_is_written() -> None:
    pipeline = Pipeline()
    state, pages = pipeline.start("t", 0), Pages()
    sent = [Row(id=k, at_ms=k, port=f"1069{k:06d}", extension="1") for k in range(30_000)]
    pipeline.step(state, batch(sent, floor_ms=START_MS + 60_000), Registry())
    whole = pages.look(state)
    pages.held = whole.digests
    again = pages.look(state)
    assert (dict(again.pages), again.gone) == ({}, [])
    pipeline.step(state, batch([Row(id=30_000, at_ms=60_000, port="1069000000", extension="1")]), Registry())
    changed = pages.look(state).pages
    assert 1 < len(changed) < 10
    assert sum(len(content) for _, content in changed.values()) < 3 * PAGE_BYTES
    assert len(whole.pages) > 200


def test_what_was_looked_at_stays_as_it_was() -> None:
    state, pages = PIPELINE.start("t", 0), Pages()
    PIPELINE.step(state, batch(rows(0, 500)), REGISTRY)
    look = pages.look(state)
    before = plain(state)
    PIPELINE.step(state, batch(rows(500, 2_000)), REGISTRY)
    assert plain(unpack([look.packed()], PIPELINE)) == before


@pytest.mark.parametrize("kept", [slice(0), slice(40), slice(-1), slice(1, None)])
def test_a_damaged_state_is_refused(kept: slice) -> None:
    with pytest.raises(ImageError, match="not a portwatch state"):
        unpack([pack(PIPELINE.start("t", 0))[kept]], PIPELINE)


def test_a_missing_segment_is_refused() -> None:
    state, pages = PIPELINE.start("t", 0), Pages()
    look = pages.look(state)
    pages.held = look.digests
    PIPELINE.step(state, batch(rows(0, 500)), REGISTRY)
    with pytest.raises(ImageError, match="not a portwatch state"):
        unpack([pages.look(state).packed()], PIPELINE)


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(ImageError, match="not a portwatch state"):
        unpack([], PIPELINE)


def _with_version(packed: bytes, version: int) -> bytes:
    tree = msgspec.msgpack.decode(bytes(cramjam.zstd.decompress(packed)))
    return bytes(cramjam.zstd.compress(msgspec.msgpack.encode(tree | {"version": version})))


def test_a_newer_state_is_refused_as_such() -> None:
    newer = _with_version(pack(PIPELINE.start("t", 0)), STATE_VERSION + 1)
    with pytest.raises(NewerStateError, match=f"state version {STATE_VERSION + 1}, this portwatch reads up to"):
        unpack([newer], PIPELINE)


def test_there_is_a_way_from_every_older_version() -> None:
    assert sorted(MIGRATIONS) == list(range(1, STATE_VERSION))


def test_a_state_of_version_1_goes_on_as_if_it_had_always_been_ours() -> None:
    """The file was written by the code of that version after the first 900 of these rows."""
    pipeline = Pipeline()
    whole, migrated = pipeline.start("sms.submit.v1", 1), unpack([OLD.read_bytes()], pipeline)
    assert migrated.next_offset == 900
    pipeline.step(whole, batch(rows(0, 900)), REGISTRY)
    assert migrated.tally == whole.tally
    rest = batch(rows(900, 2_000), first_offset=900, floor_ms=START_MS + 1_000_000)
    assert _counts(pipeline, migrated, rest) == _counts(pipeline, whole, rest)
    assert (migrated.tally.duplicate, migrated.tally.difference) == (20, 0)


def _counts(pipeline: Pipeline, state: PartitionState, rest: Any) -> list[dict[str, Any]]:
    outcome = pipeline.step(state, rest, REGISTRY)
    closed = [*outcome.panes, *pipeline.step(state, empty_batch(START_MS + 2_000_000), REGISTRY).panes]
    return [counts for pane in closed for counts in port_counts(pane, amends=False)]
