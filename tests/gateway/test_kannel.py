"""Messages through a real Kannel, its access log through the adapter: nothing of the log's format is assumed here."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from streams import topics
from streams.feeds.kannel import AccessLog
from streams.feeds.producer import feed
from streams.settings import load_settings
from tests.conftest import Broker
from tests.gateway.kannel import Kannel, send_one_of_everything

pytestmark = pytest.mark.gateway

EXPECTED = Path(__file__).parent.parent / "data" / "kannel" / "expected.jsonl"
PORTS = ("1069", "10690010")
OF_ONE_RUN = ("event_id", "event_time_ms", "received_ms")


def without_moment(value: bytes) -> str:
    submit: dict[str, Any] = json.loads(value)
    return json.dumps({name: told for name, told in submit.items() if name not in OF_ONE_RUN}, sort_keys=True)


def test_the_log_that_kannel_writes_today_is_the_recorded_one(kannel: Kannel) -> None:
    log = AccessLog(ports=PORTS, gateway_id="gz-1")
    records = log.records(send_one_of_everything(kannel).splitlines(), None)
    # Two SMSCs write at the same time, so the order is not the same each time.
    expected = sorted(map(without_moment, EXPECTED.read_bytes().splitlines()))
    assert sorted(without_moment(record.value) for record in records) == expected
    assert log.end() == []
    assert log.skipped == {"Log begins": 1, "DISCARDED SMS": 1, "Receive DLR": 2}
    assert len({json.loads(record.value)["event_id"] for record in records}) == len(records)


@pytest.mark.parametrize(
    "text",
    ["", "x", "x" * 160, "x" * 161, "x" * 306, "x" * 307, "[" * 80, "[" * 81, "[" * 153, "[x" * 200, "x" * 152 + "[" * 9]
    + ["长" * 70, "长" * 71, "长" * 134, "长" * 135, "😀" * 35, "😀" * 36, b"\0" * 140, b"\0" * 141, b"\0" * 269],
    ids=lambda text: f"{len(text)} {text[:1]!r}",
)
def test_segment_count_is_what_the_smsc_received(text: str | bytes) -> None:
    ...


async def test_what_is_sent_while_we_follow_is_in_kafka_at_once(
    kannel: Kannel, broker: Broker, topic_prefix: str
) -> None:
    ...
