"""The whole worker on Apache Kafka: kill it, restart it, and it has counted every submit once and said the same."""

import asyncio
import json
import signal
import urllib.request
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from tests.conftest import require
from tests.oracle import heard, uninterrupted
from tests.running import records, until_committed, worker
from tests.servers import Promtool

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

SPEED = 200.0  # 80 minutes of event time in 24 s


async def test_killed_and_restarted_it_counts_every_submit_once(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    log = tmp_path / "worker.log"
    feeding = asyncio.create_task(feed(SubmitLines(), morning / "submits.jsonl", settings, speed=SPEED))
    for kill_at in (15_000, 50_000):
        with worker(settings, log) as process:
            await until_committed(settings, partial(_more_than, kill_at))
            process.send_signal(signal.SIGKILL)
    with worker(settings, log) as process:
        sent = await feeding
        await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
        process.terminate()
        assert process.wait(10) == 0, log.read_text()

    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert len(said.panes) > 10_000
    assert len(said.alerts) > 5
    assert log.read_text().count("starts afresh") == settings.partitions
    assert log.read_text().count("goes on at") >= 2 * settings.partitions


async def test_what_leaves_is_cloud_events_with_ids_of_their_own(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    sent = await feed(SubmitLines(), morning / "submits.jsonl", settings)
    with worker(settings, tmp_path / "worker.log"):
        await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
    alerts = await records(settings, topics.ALERTS)
    identities = []
    for row in alerts:
        headers, alert = dict(row.headers), json.loads(row.value)
        assert headers["ce_specversion"] == b"1.0"
        assert headers["ce_type"] == f"portwatch.alert.{alert['state']}.v1".encode()
        assert headers["content-type"] == b"application/json"
        assert row.key == alert["alert_id"].encode()
        identities.append(headers["ce_id"])
    assert len(set(identities)) == len(identities) > 5
    letters = await records(settings, topics.DEAD_LETTERS)
    lines = set((morning / "submits.jsonl").read_bytes().split(b"\n"))
    for letter in letters:
        headers = dict(letter.headers)
        assert letter.value in lines
        assert headers["dlq.original.topic"].decode() == settings.topic_prefix + topics.SUBMIT.name
        assert int(headers["dlq.original.offset"]) >= 0
        assert headers["dlq.reason"]
    assert Counter(dict(letter.headers)["dlq.reason"] for letter in letters)[b"bad-port"] == 4


async def test_it_shows_metrics_health_and_readiness(settings: Settings, morning: Path, tmp_path: Path) -> None:
    require(Promtool.missing())
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    sent = await feed(SubmitLines(), morning / "submits.jsonl", settings)
    log = tmp_path / "worker.log"
    with worker(settings, log):
        await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
        address = next(line.split()[-1] for line in log.read_text().splitlines() if "metrics and health at" in line)
        await asyncio.sleep(1.5)  # gauges are refreshed once a second
        exposed = _get(f"{address}/metrics")
        assert (_get(f"{address}/healthz"), _get(f"{address}/readyz")) == ("ok\n", "ok\n")
    result = Promtool.run("check", "metrics", stdin=exposed)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in exposed.splitlines() if line[0] != "#"
    }
    outcomes = [
        values[f'portwatch_submits_total{{outcome="{o}"}}'] for o in ("counted", "late", "misclocked", "duplicate")
    ]
    assert sum(outcomes) + values['portwatch_submits_total{outcome="rejected"}'] == sent.sent
    for partition in range(settings.partitions):
        assert values[f'portwatch_balance_difference{{partition="{partition}"}}'] == 0
        assert values[f'portwatch_consumer_lag_records{{partition="{partition}"}}'] == 0


def _more_than(submits: int, offsets: dict[int, int]) -> bool:
    return sum(offsets.values()) > submits


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - the worker's own address
        return str(answer.read(), "utf-8")


async def test_without_topics_it_says_what_to_do(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with worker(settings, log) as process:
        assert process.wait(30) == 1
    assert "portwatch topics create" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_without_a_broker_it_waits_and_says_so(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    absent = settings.model_copy(update={"bootstrap_servers": ("127.0.0.1:1",), "broker_wait_s": 3.0})
    with worker(absent, log) as process:
        assert process.wait(30) == 1
    assert "waiting for Kafka at 127.0.0.1:1" in log.read_text()
    assert "Traceback" not in log.read_text()
