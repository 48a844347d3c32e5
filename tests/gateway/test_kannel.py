"""Messages through a real Kannel, its access log through the adapter: nothing of the log's format is assumed here."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from streams.feeds.kannel import AccessLog
from streams.feeds.producer import feed
from streams.settings import Settings
from tests.gateway.kannel import Kannel, send_one_of_everything
from tests.gateway.submitted import submitted

pytestmark = pytest.mark.gateway

EXPECTED = Path(__file__).parent.parent / "data" / "kannel" / "expected.jsonl"
PORTS = ("1069", "10690010")
OF_ONE_RUN = ("event_id", "event_time_ms", "received_ms")


def without_moment(value: bytes) -> str:
    submit: dict[str, Any] = json.loads(value)
    return json.dumps({name: told for name, told in submit.items() if name not in OF_ONE_RUN}, sort_keys=True)


def test_the_log_that_kannel_writes_today_means_what_the_recorded_one_means(kannel: Kannel) -> None:
    started_ms = time.time_ns() // 1_000_000
    adapter = AccessLog(ports=PORTS, gateway_id="gz-1")
    values = [record.value for record in adapter.records(send_one_of_everything(kannel).splitlines(), None)]
    # Two SMSCs write at the same time, so the order is not the same each time.
    expected = sorted(map(without_moment, EXPECTED.read_bytes().splitlines()))
    assert sorted(map(without_moment, values)) == expected
    assert adapter.end() == []
    assert adapter.skipped == {"Log begins": 1, "DISCARDED SMS": 1, "Receive DLR": 2}
    submits = [json.loads(value) for value in values]
    assert len({submit["event_id"] for submit in submits}) == len(submits)
    times = [submit["event_time_ms"] for submit in submits]
    assert all(started_ms - 1_000 <= time_ms <= time.time_ns() // 1_000_000 for time_ms in times)


SIZES: dict[str, tuple[str | bytes, int]] = {
    "3000": ("x" * 160, 1),
    "3001": ("x" * 161, 2),
    "3002": ("x" * 306, 2),
    "3003": ("x" * 307, 3),
    "3004": ("[" * 80, 1),
    "3005": ("[" * 81, 2),
    "3006": ("[" * 153, 3),
    "3007": ("x" * 152 + "[" * 9, 2),
    "3008": ("[x" * 110, 3),
    "3009": ("长" * 70, 1),
    "3010": ("长" * 71, 2),
    "3011": ("长" * 134, 2),
    "3012": ("长" * 135, 3),
    "3013": ("😀" * 35, 1),
    "3014": ("😀" * 36, 2),
    "3015": (b"\0" * 140, 1),
    "3016": (b"\0" * 141, 2),
    "3017": (b"\0" * 269, 3),
}
"""Messages by the port that sends them, and their segments."""


def test_segment_count_is_what_the_smsc_receives(kannel: Kannel) -> None:
    for port, (content, _) in SIZES.items():
        kannel.send(port, "13800138000", content)
    records = AccessLog().records(kannel.log_of(len(SIZES)).splitlines(), None)
    submits = [json.loads(record.value) for record in records]
    counted = {submit["access_port"]: submit["segment_count"] for submit in submits}
    assert counted == {port: segments for port, (_, segments) in SIZES.items()}
    assert {port: kannel.segments_from(port) for port in SIZES} == counted


async def test_a_log_that_is_followed_is_in_kafka_as_it_is_written_and_through_a_rotation(
    kannel: Kannel, settings: Settings
) -> None:
    await asyncio.to_thread(kannel.send, "10690010103909", "13800138000", "【某某科技】old")
    await asyncio.to_thread(kannel.log_of, 1)
    stop = asyncio.Event()
    adapter = AccessLog(ports=PORTS)
    feeding = asyncio.create_task(feed(adapter, kannel.access_log, settings, follow=True, stop=stop))
    await submitted(settings, 1)

    began_ms = time.time_ns() // 1_000_000
    await asyncio.to_thread(kannel.send, "1069", "13800138000", "【某某科技】new")
    await submitted(settings, 2)
    await asyncio.to_thread(kannel.rotate)
    await asyncio.to_thread(kannel.send, "95599", "13800138000 13800138001", "【某某科技】after")
    records = await submitted(settings, 4)
    stop.set()
    summary = await feeding

    submits = {record.key: json.loads(record.value) for record in records}
    texts = {key: submit["text"] for key, submit in submits.items()}
    assert texts == {b"10690010": "【某某科技】old", b"1069": "【某某科技】new", b"95599": "【某某科技】after"}
    old, new = submits[b"10690010"], submits[b"1069"]
    assert old["received_ms"] == old["event_time_ms"]
    assert began_ms <= new["received_ms"] <= time.time_ns() // 1_000_000
    assert (summary.lines, summary.sent, summary.is_complete) == (7, 4, True)
    assert summary.skipped == {"Log begins": 2, "Log ends": 1}
