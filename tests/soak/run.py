"""`make soak`: real traffic on a real Apache Kafka while workers die, for as long as asked; then the judgement.

    python -m tests.soak.run [--minutes 30] [--rate 50000] [--seed 1]

Progress goes to stderr; the last line, alone on stdout, is
    submits N lost 0 double 0 alerts N missing 0 extra 0 kills N worst_failover_s X
Exit code 1 if anything is not as it must be: what it was then stands on stderr, with the folder of the workers' logs.
"""

import argparse
import asyncio
import logging
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.admin import NewTopic

from streams import topics
from streams.kafka import admin_client, started_producer
from streams.settings import Settings, load_settings
from tests.running import committed
from tests.servers import ApacheKafka
from tests.soak.judge import Verdict, judge
from tests.soak.pulse import Pulse
from tests.soak.traffic import SLICE_MS, Record, Traffic
from tests.soak.workers import Fleet, Trouble

PARTITIONS = 6
TROUBLE_EVERY_S = (20.0, 40.0)
FAILOVER_S, RESTART_S = 10.0, 5.0
"""The promises: from the trouble to the first output of every partition about a submit that was sent after it."""

DRIFT_RATIO = 0.05
WARM_UP_S = 300.0
"""Until the tables of ids have reached their size; memory is judged in what comes after."""

_SAMPLE_S = 2.0
_SHOWN_EVERY = 5  # samples
_PATIENCE_S = 120.0
_BATCH_BYTES = 1 << 20
_STATE_BYTES = 1 << 30
"""Of checkpoints per partition: what a run of half an hour would write otherwise fills disks."""


def say(text: str) -> None:
    """A line for a person, with the time as the workers' logs have it."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Sender:
    """Sends traffic slice by slice as its time comes, in order per partition."""

    producer: AIOKafkaProducer
    topic: str
    sent: int = 0

    async def run(self, traffic: Traffic, from_ms: int, to_ms: int) -> None:
        for at_ms in range(from_ms, to_ms, SLICE_MS):
            await asyncio.sleep(max(0.0, (at_ms + SLICE_MS) / 1_000 - time.time()))
            for partition, lines in traffic.slice(at_ms).items():
                await self.send(partition, lines)

    async def send(self, partition: int, lines: list[Record]) -> None:
        """Into aiokafka's queue, which has one place per partition."""
        batch, now_ms = self.producer.create_batch(), int(time.time() * 1_000)
        for key, value in lines:
            assert batch.append(key=key, value=value, timestamp=now_ms), "a slice does not fit into a batch"
        await self.producer.send_batch(batch, self.topic, partition=partition)
        self.sent += len(lines)


@dataclass(slots=True)
class Memory:
    """Resident megabytes of each worker over time."""

    samples: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def sample(self, fleet: Fleet) -> str:
        shown = []
        for member in fleet.members:
            rss_mb = member.rss_mb
            self.samples[member.name].append((time.monotonic(), rss_mb))
            shown.append(f"{member.name} {rss_mb:.0f}")
        return ", ".join(shown)

    def drift(self) -> float | None:
        """Of the veteran: mean of the last third over the mean of the first, less 1; None if the run was too short."""
        veteran = self.samples["worker-0"]
        steady = [rss_mb for at_s, rss_mb in veteran if at_s - veteran[0][0] > WARM_UP_S]
        third = len(steady) // 3
        return statistics.mean(steady[-third:]) / statistics.mean(steady[:third]) - 1 if third else None


async def prepare(settings: Settings) -> None:
    """All topics; that of the checkpoints keeps no more than it needs."""
    state = topics.STATE.with_prefix(settings.topic_prefix)
    bounded = {**state.configs, "retention.bytes": str(_STATE_BYTES), "segment.bytes": str(_STATE_BYTES // 16)}
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(state.name, settings.partitions, 1, topic_configs=bounded)])
    await topics.create(settings)


async def watch(sender: Sender, fleet: Fleet, pulse: Pulse, trouble: Trouble, memory: Memory) -> None:
    """Notes memory, replaces workers that should not have ended, and shows how it goes; without end."""
    began_s, samples = time.monotonic(), 0
    while True:
        await asyncio.sleep(_SAMPLE_S)
        fleet.replace_the_dead()
        shown, samples = memory.sample(fleet), samples + 1
        if samples % _SHOWN_EVERY == 0:
            minutes = (time.monotonic() - began_s) / 60
            rate = sender.sent / minutes / 60
            say(
                f"{minutes:5.1f} min  {sender.sent:,} submits, {rate:,.0f}/s, lag {pulse.lag_s:.1f} s, "
                f"{dict(trouble.count)}, MB: {shown}"
            )


async def until_all_is_committed(settings: Settings, sent: int) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while (done := sum((await committed(settings)).values())) < sent:
        if time.monotonic() > deadline_s:
            say(f"only {done:,} of {sent:,} submits are committed after {_PATIENCE_S:g} s")
            return
        await asyncio.sleep(0.5)


async def suffer(settings: Settings, traffic: Traffic, folder: Path, from_ms: int, to_ms: int, seed: int) -> "Account":
    """Traffic, workers and troubles until `to_ms`; then everything is counted and the workers end in order."""
    producer = await started_producer(settings, max_batch_size=_BATCH_BYTES, compression_type="zstd")
    sender = Sender(producer, settings.topic_prefix + topics.SUBMIT.name)
    fleet, pulse, memory = Fleet(settings, folder), Pulse(settings), Memory()
    trouble = Trouble(fleet, pulse, seed, say)
    try:
        with fleet.at_work():
            async with asyncio.TaskGroup() as tasks:
                beside = [
                    tasks.create_task(pulse.listen()),
                    tasks.create_task(trouble.go_on(TROUBLE_EVERY_S)),
                    tasks.create_task(watch(sender, fleet, pulse, trouble, memory)),
                ]
                await sender.run(traffic, from_ms, to_ms)
                for task in beside:
                    task.cancel()
            seconds = time.time() - from_ms / 1_000
            rate = sender.sent / seconds
            for partition, lines in traffic.farewell(to_ms).items():
                await sender.send(partition, lines)
            await producer.flush()
            await until_all_is_committed(settings, sender.sent)
            for member in list(fleet.members):
                await fleet.stop(member)
    finally:
        await producer.stop()
    return Account(rate, sender.sent, trouble, memory, fleet.wrong)


@dataclass(frozen=True, slots=True)
class Account:
    """What happened, before it is judged."""

    rate: float
    sent: int
    trouble: Trouble
    memory: Memory
    wrong: list[str]


def complaints(verdict: Verdict, account: Account, rate: float) -> Iterator[str]:
    """Everything that is not as it must be."""
    yield from account.wrong
    if verdict.submits != account.sent:
        yield f"{account.sent} submits were sent, {verdict.submits} are on the topic"
    if verdict.lost or verdict.double:
        yield f"{verdict.lost} submits lost, {verdict.double} counted double"
    for name, right, heard in (
        ("alerts", verdict.alerts, verdict.heard_alerts),
        ("commands", verdict.commands, verdict.heard_commands),
    ):
        if right != heard:
            yield f"{name}: missing {sorted(right - heard)[:3]}, extra {sorted(heard - right)[:3]}"
    if account.rate < 0.99 * rate:
        yield f"{account.rate:,.0f} submits a second were sent, not {rate:,.0f}"
    for kind, most_s in (("kill", FAILOVER_S), ("restart", RESTART_S)):
        if (worst_s := max(account.trouble.took_s[kind], default=0.0)) > most_s:
            yield f"{worst_s:.1f} s until every partition was answered for after a {kind}: more than {most_s:g}"
    drift = account.memory.drift()
    if drift is not None and drift > DRIFT_RATIO:
        yield f"the memory of worker-0 grew by {drift:.1%} between the first and the last third"


def report(verdict: Verdict, account: Account) -> str:
    """The line; what it has no room for goes to stderr."""
    drift, took_s = account.memory.drift(), account.trouble.took_s
    say(f"rate {account.rate:,.0f} submits/s; commands {len(verdict.commands)}")
    say(f"memory of worker-0: {'too short a run to judge' if drift is None else f'{drift:+.1%}'}")
    for kind, found in sorted(took_s.items()):
        say(
            f"{kind}: {len(found)} times, every partition answered for after {statistics.median(found):.1f} s "
            f"(median), {max(found):.1f} s (worst)"
        )
    return (
        f"submits {verdict.submits} lost {verdict.lost} double {verdict.double} alerts {len(verdict.alerts)} "
        f"missing {len(verdict.alerts - verdict.heard_alerts)} extra {len(verdict.heard_alerts - verdict.alerts)} "
        f"kills {account.trouble.count['kill']} worst_failover_s {max(took_s['kill'], default=0.0):.1f}"
    )


async def soak(folder: Path, minutes: float, rate: float, seed: int) -> bool:
    """Whether all was well."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    # Segments of checkpoints go as soon as they are full, and not only every five minutes.
    with ApacheKafka({"log.retention.check.interval.ms": "20000"}) as kafka:
        settings = load_settings(bootstrap_servers=(kafka.bootstrap,), partitions=PARTITIONS, group_id="soak")
        await prepare(settings)
        from_ms = int(time.time() * 1_000) // SLICE_MS * SLICE_MS + 10_000
        to_ms = from_ms + int(minutes * 60_000) // SLICE_MS * SLICE_MS
        traffic = Traffic(seed, rate, PARTITIONS, from_ms)
        traffic.write(folder)
        settings = load_settings(
            bootstrap_servers=(kafka.bootstrap,),
            partitions=PARTITIONS,
            group_id="soak",
            registry_dir=folder / "registry",
            state_in=folder / "state",
            emit_panes=True,
            http_port=0,
        )
        account = await suffer(settings, traffic, folder, from_ms, to_ms, seed)
        say("judging")
        verdict = await judge(settings, folder, to_ms)
    line = report(verdict, account)
    wrong = list(complaints(verdict, account, rate))
    for complaint in wrong:
        say(f"WRONG: {complaint}")
    print(line)
    return not wrong


@contextmanager
def kept_when_wrong() -> Iterator[Path]:
    """A folder for the block, which stays when something went wrong."""
    folder = Path(tempfile.mkdtemp(prefix="portwatch-soak-"))
    try:
        yield folder
    except (SystemExit, Exception):
        say(f"logs of the workers: {folder}")
        raise
    except BaseException:  # interrupted
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=50_000.0, help="submits a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # new topics have no leader for a moment
    with suppress(asyncio.CancelledError):
        with kept_when_wrong() as folder:
            if not asyncio.run(soak(folder, options.minutes, options.rate, options.seed)):
                sys.exit(1)
        return
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
