"""`portwatch state`: what is in the checkpoints, whether all is sound, a copy and the way back."""

import re
import signal
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.kafka import admin_client
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from tests.oracle import heard, uninterrupted
from tests.running import committed, portwatch, records, until_committed, worker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


async def run(settings: Settings, log: Path, submits: int) -> None:
    """Let a worker count until so many submits are in a checkpoint, and end it in order."""
    with worker(settings, log) as process:
        await until_committed(settings, lambda offsets: sum(offsets.values()) >= submits)
        process.terminate()
        assert process.wait(10) == 0


async def test_a_copy_is_kept_and_restored_and_nothing_is_lost(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    empty = portwatch(settings, "state", "verify")
    assert empty.returncode == 0, empty.stderr
    assert empty.stdout.count("none yet") == settings.partitions

    half = tmp_path / "half.jsonl"
    lines = (morning / "submits.jsonl").read_bytes().splitlines(keepends=True)
    half.write_bytes(b"".join(lines[: len(lines) // 2]))
    sent = await feed(SubmitLines(), half, settings)
    await run(settings, tmp_path / "first.log", sent.sent)
    kept_at = await committed(settings)
    shown = portwatch(settings, "state", "show")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("sound") == settings.partitions
    assert all(f"{offset:,}" in shown.stdout for offset in kept_at.values())
    exported = portwatch(settings, "state", "export", tmp_path / "backup")
    assert exported.returncode == 0, exported.stderr
    assert len(exported.stdout.splitlines()) == settings.partitions
    again = portwatch(settings, "state", "export", tmp_path / "backup")
    assert (again.returncode, "is not empty" in again.stderr) == (1, True)

    rest = tmp_path / "rest.jsonl"
    rest.write_bytes(b"".join(lines[len(lines) // 2 :]))
    sent_too = await feed(SubmitLines(), rest, settings)
    await run(settings, tmp_path / "second.log", sent.sent + sent_too.sent)
    await lose_state(settings)
    broken = portwatch(settings, "state", "verify")
    assert broken.returncode == 1
    assert len(re.findall(r"partition \d+: checkpoint .* is gone", broken.stderr)) == settings.partitions

    restored = portwatch(settings, "state", "restore", tmp_path / "backup")
    assert restored.returncode == 0, restored.stderr
    assert await committed(settings) == kept_at
    assert portwatch(settings, "state", "verify").returncode == 0
    await run(settings, tmp_path / "third.log", sent.sent + sent_too.sent)
    said, repeats = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert repeats["panes"] > 0  # of the second half, counted twice and said twice the same


async def lose_state(settings: Settings) -> None:
    """Delete all that is on the state topic."""
    name = settings.topic_prefix + topics.STATE.name
    ends = {row.partition: row.offset + 1 for row in await records(settings, topics.STATE)}
    async with admin_client(settings) as admin:
        await admin.delete_records({TopicPartition(name, n): RecordsToDelete(end) for n, end in ends.items()})


async def test_restore_refuses_while_workers_live_and_states_that_do_not_fit(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    sent = await feed(SubmitLines(), morning / "submits.jsonl", settings)
    log = tmp_path / "worker.log"
    with worker(settings, log) as process:
        await until_committed(settings, lambda offsets: sum(offsets.values()) == sent.sent)
        beside = portwatch(settings, "state", "export", tmp_path / "backup")
        assert beside.returncode == 0, beside.stderr
        alive = portwatch(settings, "state", "restore", tmp_path / "backup")
        assert (alive.returncode, "is alive (Stable): stop its workers" in alive.stderr) == (1, True)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    other = settings.model_copy(update={"topic_prefix": settings.topic_prefix + "other.", "partitions": 3})
    await topics.create(other)
    unfit = portwatch(other, "state", "restore", tmp_path / "backup")
    assert unfit.returncode == 1
    assert re.search(r"the state of partition 0 stands at \d+, but \S+ ends at 0", unfit.stderr)
    nothing = portwatch(settings, "state", "restore", tmp_path)
    assert (nothing.returncode, "holds no partition-*.state" in nothing.stderr) == (1, True)
