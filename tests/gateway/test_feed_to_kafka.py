"""Files into a real Kafka: every line once, as it stands, in order, where its port belongs; in outages and at stops."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner

from streams import topics
from streams.feeds import producer
from streams.feeds.jsonl import SubmitLines
from streams.feeds.lines import LONGEST_LINE_BYTES
from streams.feeds.producer import FeedError, feed
from streams.settings import Settings, load_settings
from tests.conftest import require
from tests.gateway.submitted import PARTITIONS, submitted
from tests.servers import ApacheKafka

# From the tests of Kafka's own Java client (UtilsTest.testMurmur2).
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}
EVENT_MS = 1_795_519_205_000


def line(number: int, port: str, time_ms: int = EVENT_MS) -> bytes:
    return b'{"event_id":"%d", "event_time_ms":%d, "access_port":"%s"}' % (number, time_ms, port.encode())


def write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(text + b"\n" for text in lines))
    return path


async def test_every_line_arrives_as_it_stands_in_order_where_its_port_belongs(
    settings: Settings, tmp_path: Path
) -> None:
    ports = list(MURMUR2)
    lines = [line(number, ports[number % len(ports)]) for number in range(30_000)]

    summary = await feed(SubmitLines(), write(tmp_path / "s.jsonl", lines), settings)

    assert (summary.lines, summary.sent, summary.is_complete, dict(summary.skipped)) == (30_000, 30_000, True, {})
    records = await submitted(settings, 30_000)
    for partition in range(PARTITIONS):
        here = [port for port in ports if (MURMUR2[port] & 0x7FFF_FFFF) % PARTITIONS == partition]
        expected = [text for number, text in enumerate(lines) if ports[number % len(ports)] in here]
        assert [record.value for record in records if record.partition == partition] == expected
    assert all(record.key == json.loads(record.value)["access_port"].encode() for record in records)


def test_the_partitioner_is_that_of_every_kafka_client() -> None:
    partitions = list(range(1_000))
    chosen = {key: DefaultPartitioner()(key.encode(), partitions, partitions) for key in MURMUR2}
    assert chosen == {key: (code & 0x7FFF_FFFF) % 1_000 for key, code in MURMUR2.items()}


async def test_lines_without_a_readable_port_go_out_without_a_key_and_some_lines_can_not_go_out(
    settings: Settings, tmp_path: Path
) -> None:
    lines = [b"not JSON", b"", b'{"access_port":5}', b"x" * (LONGEST_LINE_BYTES + 1), b"y" * LONGEST_LINE_BYTES]

    summary = await feed(SubmitLines(), write(tmp_path / "s.jsonl", lines), settings)

    assert (summary.lines, summary.sent, summary.is_complete) == (5, 3, True)
    assert summary.skipped == {"blank line": 1, "line over 1 MB": 1}
    records = await submitted(settings, 3)
    assert {record.key for record in records} == {None}
    assert {record.value for record in records} == {lines[0], lines[2], lines[4]}


async def test_a_missing_topic_is_named_and_not_created(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"topic_prefix": "misspelt."})
    with pytest.raises(FeedError, match=r"misspelt\.sms\.submit\.v1: no such topic at .*: portwatch topics create"):
        await feed(SubmitLines(), write(tmp_path / "s.jsonl", [line(1, "1069")]), elsewhere)
    assert "misspelt.sms.submit.v1: missing" in map(str, await topics.check(elsewhere))


async def test_a_missing_file_is_an_error_before_kafka_is_asked(tmp_path: Path) -> None:
    nowhere = load_settings(bootstrap_servers=("127.0.0.1:1",))
    with pytest.raises(FileNotFoundError):
        await feed(SubmitLines(), tmp_path / "absent", nowhere)


async def test_at_a_speed_event_time_sets_the_pace(settings: Settings, tmp_path: Path) -> None:
    lines = [line(number, "1069", EVENT_MS + 3_000 * number) for number in range(4)]

    summary = await feed(SubmitLines(), write(tmp_path / "s.jsonl", lines), settings, speed=10.0)

    records = await submitted(settings, 4)
    assert [record.value for record in records] == lines
    waits_ms = [later.timestamp - record.timestamp for record, later in pairwise(records)]
    assert all(wait_ms >= 250 for wait_ms in waits_ms)
    assert summary.seconds >= 0.9


async def test_a_stop_in_the_middle_says_how_far_it_got(settings: Settings, tmp_path: Path) -> None:
    lines = [line(0, "1069"), line(1, "1069", EVENT_MS + 3_600_000)]
    stop = asyncio.Event()
    file = write(tmp_path / "s.jsonl", lines)
    feeding = asyncio.create_task(feed(SubmitLines(), file, settings, speed=1.0, stop=stop))
    await submitted(settings, 1)
    stop.set()
    summary = await asyncio.wait_for(feeding, 10)
    assert (summary.sent, summary.is_complete) == (1, False)
    assert str(summary).endswith("not finished: feed it again, repeats are dropped by their event_id")


def test_an_interrupt_ends_a_feed_in_order_and_says_how_far_it_got(settings: Settings, tmp_path: Path) -> None:
    file = write(tmp_path / "s.jsonl", [line(number, "1069") for number in range(1_000)])
    program = (
        "import sys; from pathlib import Path; from streams.feeds.jsonl import SubmitLines\n"
        "from streams.feeds.producer import run; from streams.settings import load_settings\n"
        "summary = run(SubmitLines(), Path(sys.argv[1]), load_settings(), follow=True)\n"
        "sys.exit(0 if summary.is_complete else 1)"
    )
    environment = {
        **os.environ,
        "PORTWATCH_BOOTSTRAP_SERVERS": ",".join(settings.bootstrap_servers),
        "PORTWATCH_TOPIC_PREFIX": settings.topic_prefix,
    }
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        asyncio.run(submitted(settings, 1_000))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert re.fullmatch(r"1,000 lines, 1,000 submits sent, \d+\.\d s\n", said)


class Outage:
    """A Kafka of our own to take away, and what the feed says about it."""

    def __init__(self, server: ApacheKafka, settings: Settings, path: Path) -> None:
        self.server = server
        self.settings = settings
        self.path = write(path, [line(0, "1069")])
        self.stop = asyncio.Event()
        self.said: asyncio.Queue[str] = asyncio.Queue()
        feeding = feed(SubmitLines(), self.path, settings, follow=True, stop=self.stop, say=self.said.put_nowait)
        self.feeding = asyncio.create_task(feeding)

    async def begin(self) -> None:
        await submitted(self.settings, 1)
        await asyncio.to_thread(self.server.kill)
        with self.path.open("ab") as file:
            file.write(b"".join(line(number, f"10690{number % 40:02d}") + b"\n" for number in range(1, 20_000)))
        said = await asyncio.wait_for(self.said.get(), 30)
        assert said == f"waiting for Kafka at {self.server.bootstrap}: 1 submits acknowledged so far"


@pytest.mark.kafka
async def test_an_outage_is_said_and_waited_for_and_costs_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(ApacheKafka.missing())
    monkeypatch.setattr(producer, "PATIENCE_S", 0.5)
    with ApacheKafka() as server:
        settings = load_settings(bootstrap_servers=(server.bootstrap,), partitions=PARTITIONS)
        await topics.create(settings)
        outage = Outage(server, settings, tmp_path / "s.jsonl")
        await outage.begin()
        await asyncio.to_thread(server.start)
        records = await submitted(settings, 20_000)
        outage.stop.set()
        summary = await outage.feeding
        assert (summary.sent, summary.is_complete) == (20_000, True)
        assert sorted(record.value for record in records) == sorted(outage.path.read_bytes().splitlines())


@pytest.mark.kafka
async def test_a_stop_in_an_outage_does_not_wait_for_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(ApacheKafka.missing())
    monkeypatch.setattr(producer, "PATIENCE_S", 0.5)
    with ApacheKafka() as server:
        settings = load_settings(bootstrap_servers=(server.bootstrap,), partitions=PARTITIONS)
        await topics.create(settings)
        outage = Outage(server, settings, tmp_path / "s.jsonl")
        await outage.begin()
        outage.stop.set()
        summary = await asyncio.wait_for(outage.feeding, 10)
        assert (summary.sent, summary.is_complete) == (1, False)
