"""What can go wrong around a worker: it ends in order or goes on, says plainly what is wrong, and loses nothing."""

import asyncio
import gc
import json
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewTopic

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.kafka import admin_client, consumer_client, producer_client
from streams.kafka import committed as commits
from streams.noc.alertmanager import AlertmanagerPush
from streams.registry_topics import MARK_KEY
from streams.settings import Settings
from streams.worker.checkpoint import CheckpointError, Pointer, Segment
from streams.worker.outbox import Outbox
from streams.worker.service import StartError, serve
from streams.worker.worker import Worker
from tests.conftest import TELL_NOBODY, require
from tests.oracle import heard, uninterrupted
from tests.running import (
    SPEED,
    all_of,
    committed,
    feeding,
    make,
    more_than,
    records,
    serving,
    status,
    until,
    until_committed,
    worker,
)
from tests.servers import Alertmanager, ApacheKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[ApacheKafka]:
    """One that we may kill and freeze."""
    require(ApacheKafka.missing())
    with ApacheKafka() as server:
        yield server


# ---- workers that come and go


async def test_workers_that_join_are_killed_and_leave_under_load_say_what_one_would(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await make(settings, morning)
    logs = [tmp_path / f"{name}.log" for name in ("first", "second", "third")]
    with worker(settings, logs[0]) as first, worker(settings, logs[1]) as second:
        await until(lambda: all("are ours" in log.read_text() for log in logs[:2]))
        sending = feeding(settings, morning)
        await until_committed(settings, partial(more_than, 15_000))
        first.send_signal(signal.SIGKILL)
        with worker(settings, logs[2]) as third:
            await until_committed(settings, partial(more_than, 50_000))
            second.terminate()
            assert second.wait(5) == 0, logs[1].read_text()
            sent = await sending
            await until_committed(settings, partial(all_of, sent.sent))
            third.terminate()
            assert third.wait(5) == 0, logs[2].read_text()
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert len(said.panes) > 10_000
    assert "are ours" in logs[2].read_text()


async def test_a_worker_that_was_frozen_and_wakes_up_does_no_harm(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    """It still believes that it owns its partitions, while another has gone on with them."""
    await make(settings, morning)
    logs = [tmp_path / "zombie.log", tmp_path / "other.log"]
    with worker(settings, logs[0]) as zombie, worker(settings, logs[1]):
        await until(lambda: all("are ours" in log.read_text() for log in logs))
        sending = feeding(settings, morning, speed=2 * SPEED)
        await until_committed(settings, partial(more_than, 10_000))
        zombie.send_signal(signal.SIGSTOP)
        owned = [log.read_text().count("are ours") for log in logs]
        await until(lambda: logs[1].read_text().count("are ours") > owned[1])  # the session is over, the other has all
        await asyncio.sleep(1)
        zombie.send_signal(signal.SIGCONT)
        sent = await sending
        await until_committed(settings, partial(all_of, sent.sent))
        await until(lambda: logs[0].read_text().count("are ours") > owned[0])
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_ends_it_with_a_last_checkpoint(
    settings: Settings, morning: Path, tmp_path: Path, number: int
) -> None:
    await make(settings, morning)
    sending, log = feeding(settings, morning, speed=4 * SPEED), tmp_path / "worker.log"
    hardly_ever = settings.model_copy(update={"checkpoint_interval_s": 300.0})
    with worker(hardly_ever, log) as process:
        while len(await records(settings, topics.PANES)) < 2_000:
            assert process.poll() is None, log.read_text()
        assert await committed(settings) == {}
        process.send_signal(number)
        assert process.wait(5) == 0, log.read_text()
    assert sum((await committed(settings)).values()) > 5_000
    sent = await sending
    with worker(settings, log):
        await until_committed(settings, partial(all_of, sent.sent))
    said, repeats = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")
    assert repeats == {}


async def test_what_it_restarts_with_is_told_to_alertmanager_again(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    require(Alertmanager.missing())
    await make(settings, morning)
    sent = await feed(SubmitLines(), morning / "submits.jsonl", settings)
    with worker(settings, tmp_path / "worker.log") as process:
        await until_committed(settings, partial(all_of, sent.sent))
        process.terminate()
        process.wait(5)
    states = {row.key.decode(): json.loads(row.value)["state"] for row in await records(settings, topics.ALERTS)}
    still_open = {alert_id for alert_id, state in states.items() if state != "resolved"}
    assert still_open
    with Alertmanager(TELL_NOBODY) as server:
        async with serving(settings.model_copy(update={"alertmanager_urls": (server.url,)})):
            async with asyncio.timeout(10):
                while {alert["annotations"]["alert_id"] for alert in await told(server)} != still_open:  # noqa: ASYNC110 - Alertmanager has no event to wait for
                    await asyncio.sleep(0.1)


async def told(server: Alertmanager) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/api/v2/alerts") as answer:
        found: list[dict[str, Any]] = await answer.json()
        return found


async def test_a_worker_too_many_stands_by_and_is_ready(settings: Settings, morning: Path) -> None:
    alone = settings.model_copy(update={"partitions": 1, "state_in": None})
    await make(alone, morning)
    async with serving(alone) as (first, one), serving(alone) as (second, two):
        assert await status(f"{two}/readyz") == (503, "the group has not shared its partitions yet\n")
        await until(lambda: first.is_assigned.is_set() and second.is_assigned.is_set())
        await until(lambda: len(first.views) + len(second.views) == 1)
        for url in (one, two):
            assert await status(f"{url}/readyz") == (200, "ok\n")
            assert await status(f"{url}/healthz") == (200, "ok\n")


# ---- a broker in trouble


async def test_a_broker_killed_and_restarted_loses_nothing(
    own_kafka: ApacheKafka, settings: Settings, morning: Path, tmp_path: Path
) -> None:
    own = settings.model_copy(update={"bootstrap_servers": (own_kafka.bootstrap,)})
    await make(own, morning)
    sending, log = feeding(own, morning), tmp_path / "worker.log"
    with worker(own, log) as process:
        await until_committed(own, partial(more_than, 20_000))
        own_kafka.kill()
        await asyncio.sleep(3)
        await asyncio.to_thread(own_kafka.start)
        sent = await sending
        await until_committed(own, partial(all_of, sent.sent))
        process.terminate()
        assert process.wait(5) == 0, log.read_text()
    said, _ = await heard(own)
    assert said == await uninterrupted(own, morning / "registry")
    lines = log.read_text().splitlines()
    assert "Traceback" not in log.read_text()
    assert len(lines) < 40, lines[:40]


async def test_a_frozen_broker_makes_it_unhealthy_and_does_not_keep_it_from_ending(
    own_kafka: ApacheKafka, settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.worker.http.STALLED_S", 4.0)
    monkeypatch.setattr("streams.worker.worker.IDLE_GRACE_S", 1.0)
    own = settings.model_copy(update={"bootstrap_servers": (own_kafka.bootstrap,)})
    await make(own, morning)
    sent = await feed(SubmitLines(), morning / "submits.jsonl", own)
    tasks = asyncio.all_tasks()
    async with serving(own) as (it, url):
        await until_committed(own, partial(all_of, sent.sent))
        clocks = {partition: view.clock_ms for partition, view in it.views.items()}
        await until(lambda: all(view.clock_ms > clocks[p] + 2_000 for p, view in it.views.items()))
        assert await status(f"{url}/healthz") == (200, "ok\n")
        own_kafka.freeze()
        await until(lambda: not any(view.is_caught_up for view in it.views.values()))  # it has noticed
        clocks = {partition: view.clock_ms for partition, view in it.views.items()}
        await asyncio.sleep(4)
        assert {partition: view.clock_ms for partition, view in it.views.items()} == clocks
        code, why = await status(f"{url}/healthz")
        assert (code, why.partition(" for ")[0]) == (503, "partition 0 stalled")
        own_kafka.thaw()
        # It may have lost its place in the group meanwhile, and joins again.
        await until(lambda: 0 in it.views and it.views[0].clock_ms > clocks[0], patience_s=60)
        assert await status(f"{url}/healthz") == (200, "ok\n")
        own_kafka.freeze()
        ending = time.monotonic()
    assert time.monotonic() - ending < 5.0
    assert asyncio.all_tasks() == tasks
    gc.collect()  # here, not in some other test, a socket that was left open would be a warning
    own_kafka.thaw()


async def test_a_corrupt_batch_is_counted_told_and_left_behind(
    own_kafka: ApacheKafka, settings: Settings, morning: Path
) -> None:
    own = settings.model_copy(update={"bootstrap_servers": (own_kafka.bootstrap,)})
    await make(own, morning)
    await feed(SubmitLines(), morning / "submits.jsonl", own)
    own_kafka.stop()
    log = own_kafka.folder / "data" / f"{own.topic_prefix}{topics.SUBMIT.name}-1" / f"{0:020d}.log"
    first, behind = damage(log, 2)
    await asyncio.to_thread(own_kafka.start)
    for _ in range(2):  # it does not come back to it
        async with serving(own) as (it, _):
            await until(lambda: it.is_assigned.is_set() and all(view.is_caught_up for view in it.views.values()), 60)
            await asyncio.sleep(1.5)  # the views are refreshed once a second
            for view in it.views.values():
                assert (view.tally.submits_in, view.tally.difference) == (view.end_offset, 0)
            assert it.views[1].tally.rejected["corrupt-batch"] == behind - first
    letters = [dict(row.headers) for row in await records(own, topics.DEAD_LETTERS)]
    [letter] = [letter for letter in letters if letter["dlq.reason"] == b"corrupt-batch"]
    assert int(letter["dlq.original.offset"]) == first
    assert letter["dlq.error"].decode() == f"{behind - first} records up to offset {behind - 1}: wrong CRC"


def damage(log: Path, number: int) -> tuple[int, int]:
    """Change the last byte of the batch of that number in a log file; returns the offsets [first, behind) it holds."""
    content, at = bytearray(log.read_bytes()), 0
    for _ in range(number):
        at += 12 + int.from_bytes(content[at + 8 : at + 12])
    base, length = int.from_bytes(content[at : at + 8]), int.from_bytes(content[at + 8 : at + 12])
    content[at + 12 + length - 1] ^= 1
    log.write_bytes(content)
    return base, base + int.from_bytes(content[at + 23 : at + 27]) + 1


# ---- a worker in trouble


class OutOfOrderError(Exception):
    """Stands for a defect of ours."""


async def until_it_fails(settings: Settings) -> None:
    began = time.monotonic()
    async with asyncio.timeout(30):
        with pytest.raises(OutOfOrderError):
            await serve(settings, asyncio.Event())
    assert time.monotonic() - began < 20  # by itself, not for lack of our patience


async def test_a_step_that_breaks_off_ends_the_worker_and_is_in_no_checkpoint(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(settings, morning)
    sent = await feed(SubmitLines(), morning / "submits.jsonl", settings)
    healthy, calls = Outbox.commands, 0

    async def break_off(self: Outbox, commands: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # the second batch of a partition, with no checkpoint behind the first
            raise OutOfOrderError
        await healthy(self, commands)

    with monkeypatch.context() as broken:
        broken.setattr(Outbox, "commands", break_off)
        await until_it_fails(settings.model_copy(update={"checkpoint_interval_s": 300.0}))
    offsets = await committed(settings)
    assert 0 < sum(offsets.values()) < sent.sent  # of the partitions that were whole there is a last checkpoint
    async with serving(settings) as (it, _):
        await until(lambda: it.is_assigned.is_set() and all(view.is_caught_up for view in it.views.values()), 60)
        await asyncio.sleep(1.5)  # the views are refreshed once a second
        for view in it.views.values():
            assert view.tally.submits_in == view.next_offset == view.end_offset
    said, _ = await heard(settings)
    assert said == await uninterrupted(settings, morning / "registry")


@pytest.mark.parametrize("method", ["tick", "checkpoint"])
async def test_a_failing_timer_ends_the_worker(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async def fail(_: Worker) -> None:
        raise OutOfOrderError

    await make(settings, morning)
    monkeypatch.setattr(Worker, method, fail)
    await until_it_fails(settings)


async def test_a_failing_push_ends_the_worker(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: AlertmanagerPush) -> None:
        raise OutOfOrderError

    await make(settings, morning)
    monkeypatch.setattr(AlertmanagerPush, "run", fail)
    await until_it_fails(settings)


async def test_a_partition_revoked_while_it_is_taken_over_is_not_kept(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(settings, morning)
    taking, go_on = asyncio.Event(), asyncio.Event()
    healthy = Worker._restore

    async def slowly(self: Worker, *what: Any) -> Any:
        taking.set()
        await go_on.wait()
        return await healthy(self, *what)

    monkeypatch.setattr(Worker, "_restore", slowly)
    async with serving(settings) as (it, _):
        await taking.wait()
        await it.release()
        go_on.set()
        await asyncio.sleep(0.5)
        assert it.views == {}
        assert not it.is_assigned.is_set()


async def test_the_age_of_its_commits_is_told_while_submits_come(settings: Settings, morning: Path) -> None:
    await make(settings, morning)
    sending = feeding(settings, morning)
    async with serving(settings) as (it, _):
        await until_committed(settings, partial(more_than, 10_000))
        oldest_s = 0.0
        while not sending.done():
            oldest_s = max(oldest_s, *(time.monotonic() - view.committed_at_s for view in it.views.values()))
            await asyncio.sleep(0.1)
        assert oldest_s < 8  # twice a second it is made durable; a loaded machine may be late


async def test_a_partition_that_stands_still_is_written_again(
    settings: Settings, morning: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the retention of the state topic would take away what the group's offsets point to."""
    monkeypatch.setattr("streams.worker.checkpoint.REWRITE_S", 1.0)
    await make(settings, morning)
    async with serving(settings) as (it, _):
        await until(lambda: len(it.views) == settings.partitions)
        await asyncio.sleep(4)
        assert all(time.monotonic() - view.committed_at_s < 2 for view in it.views.values())
    written = await records(settings, topics.STATE)
    assert {row.partition for row in written} == {0, 1, 2}
    assert 6 <= len(written) <= 15


# ---- checkpoints and offsets that others have touched


async def set_offsets(settings: Settings, offset: int, metadata: str = "") -> None:
    name = settings.topic_prefix + topics.SUBMIT.name
    async with consumer_client(settings, settings.group_id) as consumer:
        consumer.assign([TopicPartition(name, n) for n in range(settings.partitions)])
        await consumer.commit({TopicPartition(name, n): (offset, metadata) for n in range(settings.partitions)})


async def test_a_pointer_that_leads_nowhere_stops_it_with_the_way_out(
    settings: Settings, morning: Path, tmp_path: Path
) -> None:
    await make(settings, morning)
    pointer = str(Pointer((Segment("0011223344556677", first=4, last=5, chunks=2, crc=1),)))
    log = tmp_path / "worker.log"
    for metadata, why in (("by hand", "holds no pointer"), (pointer, "is gone")):
        await set_offsets(settings, 0, metadata)
        with worker(settings, log) as process:
            assert process.wait(30) == 1
        last = log.read_text().splitlines()[-1]
        assert why in last
        assert f"--topic {settings.topic_prefix}sms.submit.v1:0 --reset-offsets --to-offset 0 --execute" in last
    assert "Traceback" not in log.read_text()


async def test_it_starts_where_somebody_has_set_the_groups_offsets(settings: Settings, morning: Path) -> None:
    await make(settings, morning)
    await feed(SubmitLines(), morning / "submits.jsonl", settings)
    await set_offsets(settings, 10_000)
    async with serving(settings) as (it, _):
        await until(lambda: bool(it.views) and not any(view.lag or not view.end_offset for view in it.views.values()))
        await asyncio.sleep(1.5)
        for view in it.views.values():
            assert view.tally.submits_in == view.end_offset - 10_000


async def test_a_checkpoint_ahead_of_its_topic_is_refused(settings: Settings, morning: Path) -> None:
    """A topic that was made anew begins at 0 again: its first records would be taken for known."""
    await make(settings, morning)
    await feed(SubmitLines(), morning / "submits.jsonl", settings)
    async with serving(settings) as (it, _):
        await until(lambda: bool(it.views) and not any(view.lag or not view.end_offset for view in it.views.values()))
    name = settings.topic_prefix + topics.SUBMIT.name
    async with consumer_client(settings, settings.group_id) as consumer:
        pointer = (await commits(consumer, [TopicPartition(name, 0)]))[TopicPartition(name, 0)]
    async with admin_client(settings) as admin:
        await admin.delete_topics([name])
        async with asyncio.timeout(20):
            while name in await topics.partition_counts(admin):  # noqa: ASYNC110 - a broker has no event to wait for
                await asyncio.sleep(0.1)
    await topics.create(settings)
    await set_offsets(settings, pointer.offset, pointer.metadata)  # Kafka drops them with the topic; a restore may not
    with pytest.raises(CheckpointError, match="made anew"):
        await serve(settings, asyncio.Event())


# ---- a start that can't be


async def test_each_partition_of_submits_needs_one_of_the_state(settings: Settings, morning: Path) -> None:
    submits, state = (topic.with_prefix(settings.topic_prefix).name for topic in (topics.SUBMIT, topics.STATE))
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(state, 2, 1), NewTopic(submits, 3, 1)])
    await make(settings, morning)
    with pytest.raises(StartError, match=f"{state}: has 2 partitions, must have as many as {submits}: 3"):
        await serve(settings, asyncio.Event())


async def test_a_signal_ends_it_while_it_waits_for_the_registry(settings: Settings, tmp_path: Path) -> None:
    await topics.create(settings)
    async with producer_client(settings) as producer:
        begun = json.dumps({"state": "begun", "version": "x"}).encode()
        await producer.send_and_wait(settings.topic_prefix + topics.PORTS.name, begun, key=MARK_KEY)
    log = tmp_path / "worker.log"
    with worker(settings, log) as process:
        await until(lambda: "a load is under way or broke off" in log.read_text())
        process.terminate()
        assert process.wait(5) == 0
    assert "Traceback" not in log.read_text()


async def test_without_topics_it_makes_none(settings: Settings, morning: Path, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    with worker(settings.model_copy(update={"registry_dir": morning / "registry"}), log) as process:
        assert process.wait(30) == 1
    assert f"no topics {settings.topic_prefix}sms.submit.v1" in log.read_text()
    assert await topics.create(settings) == [topic.name for topic in topics.all_with_prefix(settings)]
