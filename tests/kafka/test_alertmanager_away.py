"""A worker whose Alertmanagers are away or mute counts, alerts and stops as if they were not."""

import json
import socket
from pathlib import Path

import pytest

from streams import topics
from streams.embedded import free_port
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from tests.oracle import heard, uninterrupted
from tests.running import records, until_committed, worker

pytestmark = pytest.mark.kafka


async def test_it_goes_on_and_stops_in_time_while_nobody_takes_its_alerts(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    log = tmp_path / "worker.log"
    with socket.create_server(("127.0.0.1", 0)) as mute:  # the kernel accepts for it, and nobody ever answers
        urls = tuple(f"http://127.0.0.1:{port}" for port in (mute.getsockname()[1], free_port()))
        with worker(settings.model_copy(update={"alertmanager_urls": urls}), log) as process:
            sent = await feed(SubmitLines(), morning / "submits.jsonl", settings)
            await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
            process.terminate()
            assert process.wait(5) == 0, log.read_text()
    assert any(json.loads(row.value)["state"] == "resolved" for row in await records(settings, topics.ALERTS))
    said, repeats = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert repeats == {}
    assert log.read_text().count("is away") >= 1
