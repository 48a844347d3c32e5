"""Killed at each moment that matters, one after another, and the sum of all lives is that of one."""

import asyncio
import signal
from pathlib import Path

import pytest

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from tests.kafka.dying_worker import POINTS
from tests.oracle import heard, uninterrupted
from tests.running import until_committed, worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

SPEED = 40.0  # 80 minutes of event time in two


async def test_killed_at_every_point_of_a_checkpoint_it_says_what_one_would(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    often = settings.model_copy(update={"checkpoint_interval_s": 0.2})
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    feeding = asyncio.create_task(feed(SubmitLines(), morning / "submits.jsonl", settings, speed=SPEED))
    for nth, point in enumerate(POINTS, 1):
        log = tmp_path / f"{point}.log"
        with worker(often, log, ("tests.kafka.dying_worker", point, str(nth % 3 + 1))) as dying:
            assert await asyncio.to_thread(dying.wait, 60) == -signal.SIGKILL, (point, log.read_text())
    assert not feeding.done()  # each of them died under load
    log = tmp_path / "the last.log"
    with worker(often, log) as last:
        sent = await feeding
        await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
        last.terminate()
        assert last.wait(10) == 0, log.read_text()
    said, repeats = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert repeats["panes"] > 0  # what was sent and not in a checkpoint was said again
