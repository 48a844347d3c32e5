"""A checkpoint may only follow when everything said before it has arrived."""

import asyncio
import hashlib
from typing import Any

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from detectors.contract import Action, Command
from streams.contract import Reject, RejectReason
from streams.settings import load_settings
from streams.worker import outbox
from streams.worker.outbox import Outbox
from streams.worker.transport import PartitionBatch


class Line:
    """A producer whose broker answers when the test says so."""

    def __init__(self) -> None:
        self.sent: list[asyncio.Future[None]] = []
        self.records: list[dict[str, Any]] = []

    async def send(self, _topic: str, **record: Any) -> asyncio.Future[None]:
        self.records.append(record)
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]


def command(number: int) -> Command:
    return Command(f"c{number}", Action.THROTTLE, "10690010", 2.0, "unfiled-1", "volume-flash", 0, 1)


@pytest.fixture
async def line() -> Line:
    return Line()


@pytest.fixture
async def box(line: Line) -> Outbox:
    return Outbox(load_settings(), line)


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_is_settled_when_the_last_has_arrived(line: Line, box: Outbox) -> None:
    await box.commands([command(1), command(2)])
    settling = asyncio.create_task(box.settle())
    line.sent[1].set_result(None)
    await turns()
    assert not settling.done()
    line.sent[0].set_result(None)
    await settling
    await box.settle()


async def test_what_is_said_meanwhile_is_not_waited_for(line: Line, box: Outbox) -> None:
    await box.commands([command(1)])
    settling = asyncio.create_task(box.settle())
    await turns()
    await box.commands([command(2)])
    line.sent[0].set_result(None)
    await asyncio.wait_for(settling, 1)


async def test_a_settling_that_was_given_up_forgets_nothing(line: Line, box: Outbox) -> None:
    await box.commands([command(1)])
    settling = asyncio.create_task(box.settle())
    await turns()
    settling.cancel()
    await turns()
    again = asyncio.create_task(box.settle())
    await turns()
    assert not again.done()
    line.sent[0].set_result(None)
    await again


async def test_what_a_full_box_waits_for_a_checkpoint_waits_for_too(
    line: Line, box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_UNSETTLED", 2)
    sending = asyncio.create_task(box.commands([command(n) for n in range(4)]))
    await turns()
    assert len(line.sent) == 3  # the fourth waits
    settling = asyncio.create_task(box.settle())
    for sent in line.sent[1:]:
        sent.set_result(None)
    await turns()
    assert not settling.done()
    line.sent[0].set_result(None)
    await settling
    await turns()
    assert sending.done()


async def test_a_record_that_was_not_taken_is_never_left_behind(line: Line, box: Outbox) -> None:
    await box.commands([command(1), command(2)])
    line.sent[0].set_exception(ConnectionError("away"))
    line.sent[1].set_result(None)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await box.settle()


# ---- dead letters

SIZES = st.sampled_from([0, 1, 9, 1_023, 1_024, 1_025, 1_500, 3_000, 5_000, 9_000])


@given(key=st.none() | SIZES, value=st.none() | SIZES, header=SIZES, is_block=st.booleans())
async def test_a_letter_is_whole_or_cut_and_never_larger_than_its_topic_takes(
    key: int | None, value: int | None, header: int, *, is_block: bool
) -> None:
    most, line = 5_000, Line()
    box = Outbox(load_settings(), line, most)
    raw = None if value is None else b"v" * value
    batch = PartitionBatch(
        topic="in",
        partition=1,
        start=7,
        end=8,
        values=[raw],
        keys=[None if key is None else b"k" * key],
        offsets=np.array([7]),
        log_time_ms=np.array([9]),
        content_types={0: b"h" * header} if is_block else {},
        replayed={0: 2},
        size_bytes=value or 0,
    )

    await box.dead_letters(batch, 0, [Reject(0, 7, None, RejectReason.NOT_JSON, "why", raw)])

    [record] = line.records
    size = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, most + 1)
    assert size.append(0, 9, record["key"], record["value"], record["headers"]) is not None
    assert len(size.build()) <= most
    headers = dict(record["headers"])
    assert (headers["dlq.reason"], headers["dlq.original.offset"], headers["dlq.replayed"]) == (b"not-json", b"7", b"2")
    if "dlq.original.bytes" in headers:
        assert (value or 0) + (key or 0) + header > most - 500
        assert record["value"] == (raw or b"")[:1_024]
        assert headers["dlq.original.bytes"] == str(value or 0).encode()
        assert headers["dlq.original.sha256"].decode() == hashlib.sha256(raw or b"").hexdigest()
        assert "content-type" not in headers
    else:
        assert record["value"] == (raw if key is not None else raw or b"")
        assert record["key"] == batch.keys[0]
        assert headers.get("content-type") == batch.content_types.get(0)
