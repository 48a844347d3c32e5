"""A worker, as a process or in this one, and what it has written, for tests that judge the whole."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from streams import topics
from streams.kafka import consumer_client
from streams.settings import Settings
from streams.worker.service import serve
from streams.worker.worker import Worker

PATIENCE_S = 60.0


def environment(settings: Settings) -> dict[str, str]:
    """The settings as variables of a process."""
    return os.environ | {name: value for name, value in settings.shown().items() if value}


def portwatch(settings: Settings, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run `portwatch WORDS` to its end."""
    command = [sys.executable, "-m", "streams.cli", *words]
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def worker(
    settings: Settings, log: Path, command: Sequence[str] = ("streams.cli", "worker")
) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process, or another module with its arguments; killed at the end if it still lives."""
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-m", *command], env=environment(settings), stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Worker, str]]:
    """A worker in this process, and the URL of its HTTP server; stopped at the end, and what crashed it raised."""
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    life = asyncio.create_task(serve(settings, stop, lambda *both: started.set_result(both)))
    await asyncio.wait([life, started], return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        await life
    worker, port = await started
    try:
        yield worker, f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await life


async def records(settings: Settings, topic: topics.Topic) -> list[Any]:
    """Everything on a topic, by partition in order of offsets."""
    async with consumer_client(settings) as consumer:
        partitions = [TopicPartition(settings.topic_prefix + topic.name, n) for n in range(settings.partitions)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[Any] = []
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for rows in (await consumer.getmany(timeout_ms=200)).values():
                found += rows
    return sorted(found, key=lambda row: (row.partition, row.offset))


async def committed(settings: Settings) -> dict[int, int]:
    """The offsets that the group has committed."""
    topic = settings.topic_prefix + topics.SUBMIT.name
    async with consumer_client(settings, group_id=settings.group_id) as consumer:
        offsets = {n: await consumer.committed(TopicPartition(topic, n)) for n in range(settings.partitions)}
    return {n: offset for n, offset in offsets.items() if offset is not None}


async def until_committed(settings: Settings, wanted: Callable[[dict[int, int]], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not wanted(await committed(settings)):
        assert time.monotonic() < deadline, await committed(settings)
