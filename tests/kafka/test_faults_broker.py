"""A broker that is away for a minute, slow, or out of disk: the worker waits, and has lost nothing when it is back."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from detectors.pipeline import Pipeline
from streams import topics
from streams.kafka import producer_client
from streams.settings import Settings
from streams.worker.checkpoint import Checkpoints, Pointer
from streams.worker.image import pack
from tests.conftest import require
from tests.oracle import heard, uninterrupted
from tests.running import (
    SPEED,
    all_of,
    exposed,
    feeding,
    make,
    more_than,
    until,
    until_committed,
    worker,
)
from tests.servers import ApacheKafka
from tests.states import plain

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

AWAY_S = 60
DISK_MB = 192


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[ApacheKafka]:
    """One that we may kill and freeze."""
    require(ApacheKafka.missing())
    with ApacheKafka() as server:
        yield server


async def test_a_broker_that_is_away_for_a_minute_is_waited_for(
    own_kafka: ApacheKafka, settings: Settings, morning: Path, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"bootstrap_servers": (own_kafka.bootstrap,)})
    await make(own, morning)
    sending, log = feeding(own, morning, speed=4 * SPEED), tmp_path / "worker.log"
    with worker(own, log) as process:
        await until_committed(own, partial(more_than, 15_000))
        own_kafka.kill()
        memory = psutil.Process(process.pid).memory_info
        await asyncio.sleep(5)
        before = memory().rss
        await asyncio.sleep(AWAY_S - 5)
        assert memory().rss < 1.05 * before
        samples = exposed(log)
        for partition in range(own.partitions):
            assert samples[f'portwatch_stalled_seconds{{partition="{partition}"}}'] > AWAY_S / 2
        await asyncio.to_thread(own_kafka.start)
        sent = await sending
        await until_committed(own, partial(all_of, sent.sent))
        process.terminate()
        assert process.wait(5) == 0, log.read_text()
    said, _ = await heard(own)
    assert said == await uninterrupted(own, morning / "registry")
    assert "Traceback" not in log.read_text()
    assert len(log.read_text().splitlines()) < 50, log.read_text()


async def test_a_slow_broker_costs_time_alone(
    own_kafka: ApacheKafka, settings: Settings, morning: Path, tmp_path: Path
) -> None:
    """It runs for a tenth of a second, and stands still for three."""
    own = settings.model_copy(update={"bootstrap_servers": (own_kafka.bootstrap,)})
    await make(own, morning)
    sending, log = feeding(own, morning, speed=2 * SPEED), tmp_path / "worker.log"
    with worker(own, log) as process:
        await until_committed(own, partial(more_than, 5_000))
        for _ in range(30):
            own_kafka.freeze()
            await asyncio.sleep(0.3)
            own_kafka.thaw()
            await asyncio.sleep(0.1)
        sent = await sending
        await until_committed(own, partial(all_of, sent.sent))
        process.terminate()
        assert process.wait(5) == 0, log.read_text()
    said, _ = await heard(own)
    assert said == await uninterrupted(own, morning / "registry")
    assert "Traceback" not in log.read_text()


async def test_a_checkpoint_that_finds_no_place_for_long_is_written_nevertheless(
    own_kafka: ApacheKafka, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka gives up a record after `request_timeout_ms`, 40 s if not told otherwise."""
    monkeypatch.setattr("streams.worker.checkpoint.CHUNK_BYTES", 10)
    own = settings.model_copy(update={"bootstrap_servers": (own_kafka.bootstrap,)})
    await topics.create(own)
    pipeline = Pipeline()
    state = pipeline.start("sms.submit.v1", 1)
    async with producer_client(own, request_timeout_ms=500, max_batch_size=100) as producer:
        checkpoints = Checkpoints(own, producer, pipeline)
        await checkpoints.write(1, pack(state))
        own_kafka.freeze()
        writing = asyncio.create_task(checkpoints.write(1, pack(state)))
        await asyncio.wait([writing], timeout=3)
        own_kafka.thaw()
        segment, _ = await writing
        assert segment.chunks > 10
        assert plain((await checkpoints.read(1, Pointer((segment,)))).state) == plain(state)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of DISK_MB in memory at `folder`."""
    folder.mkdir()
    require(None if os.geteuid() == 0 else "a small disk of its own (a tmpfs) takes root to mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path, but_bytes: int) -> Path:
    """A file that leaves so many bytes free."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - but_bytes)
    return filler


async def test_a_broker_that_ran_out_of_disk_is_waited_for(settings: Settings, morning: Path, tmp_path: Path) -> None:
    require(ApacheKafka.missing())
    with small_disk(tmp_path / "disk") as disk, ApacheKafka({"log.dirs": str(disk / "kafka")}) as kafka:
        own = settings.model_copy(update={"bootstrap_servers": (kafka.bootstrap,)})
        await make(own, morning)
        sending, log = feeding(own, morning, speed=2 * SPEED), tmp_path / "worker.log"
        with worker(own, log) as process:
            await until_committed(own, partial(more_than, 10_000))
            filler = fill(disk, but_bytes=1_000_000)
            await until(lambda: not kafka.ready(), patience_s=60)
            kafka.kill()
            assert "No space left on device" in kafka.log
            filler.unlink()
            await asyncio.to_thread(kafka.start)
            sent = await sending
            await until_committed(own, partial(all_of, sent.sent))
            process.terminate()
            assert process.wait(5) == 0, log.read_text()
        said, _ = await heard(own)
        assert said == await uninterrupted(own, morning / "registry")
        assert "Traceback" not in log.read_text()
