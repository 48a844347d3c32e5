"""A worker, as a process or in this one, and what it has written, for tests that judge the whole."""

import asyncio
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import TopicPartition

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import Summary, feed
from streams.kafka import admin_client, consumer_client
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from streams.worker.service import serve
from streams.worker.worker import Worker

PATIENCE_S = 60.0
SPEED = 200.0  # 80 minutes of event time in 24 s


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
    name = settings.topic_prefix + topic.name
    async with admin_client(settings) as admin:
        count = (await topics.partition_counts(admin))[name]
    async with consumer_client(settings) as consumer:
        partitions = [TopicPartition(name, n) for n in range(count)]
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


async def make(settings: Settings, morning: Path) -> None:
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)


def feeding(settings: Settings, morning: Path, speed: float = SPEED) -> "asyncio.Task[Summary]":
    return asyncio.create_task(feed(SubmitLines(), morning / "submits.jsonl", settings, speed=speed))


async def until(holds: Callable[[], bool], patience_s: float = 30.0) -> None:
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def status(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


def more_than(submits: int, offsets: dict[int, int]) -> bool:
    return sum(offsets.values()) > submits


def all_of(submits: int, offsets: dict[int, int]) -> bool:
    return sum(offsets.values()) == submits


def exposed(log: Path) -> dict[str, float]:
    """The samples that the worker of the log shows at /metrics now, by name and labels."""
    address = [line.split()[-1] for line in log.read_text().splitlines() if "metrics and health at" in line][-1]
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as answer:  # noqa: S310 - the worker's own address
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
