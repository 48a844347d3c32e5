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
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaProducer

from streams import topics
from streams.kafka import started_producer
from streams.settings import Settings, load_settings
from tests.running import committed
from tests.servers import ApacheKafka
from tests.soak.account import Account, Memory
from tests.soak.judge import judge
from tests.soak.pulse import Pulse
from tests.soak.traffic import AHEAD_MS, SLICE_MS, Record, Traffic, write
from tests.soak.workers import Fleet, Trouble

PARTITIONS = 6
TROUBLE_EVERY_S = (20.0, 40.0)

_START_MS = 5_000  # for the workers to start, before the first submit
_BATCH_BYTES = 1 << 20
_SAMPLE_S = 2.0
_SHOWN_EVERY = 5  # samples
_PATIENCE_S = 120.0


def say(text: str) -> None:
    """A line for a person, with the time as the workers' logs have it."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


@dataclass(slots=True)
class Sender:
    """Sends slices of traffic as their time comes, in order per partition."""

    producer: AIOKafkaProducer
    topic: str
    sent: int = 0

    async def run(self, traffic: Traffic, from_ms: int, to_ms: int) -> None:
        for at_ms in range(from_ms, to_ms, SLICE_MS):
            await asyncio.sleep(max(0.0, (at_ms + SLICE_MS) / 1_000 - time.time()))
            for partition, lines in traffic.slice(at_ms).items():
                await self.send(partition, lines, int(time.time() * 1_000))

    async def send(self, partition: int, lines: list[Record], log_time_ms: int) -> None:
        """Into aiokafka's queue, which has one place per partition: that bounds the memory."""
        batch = self.producer.create_batch()
        for key, value in lines:
            assert batch.append(key=key, value=value, timestamp=log_time_ms), "a slice does not fit into a batch"
        await self.producer.send_batch(batch, self.topic, partition=partition)
        self.sent += len(lines)


async def watch(sender: Sender, fleet: Fleet, pulse: Pulse, trouble: Trouble, memory: Memory) -> None:
    """Notes memory, replaces workers that should not have ended, and says how it goes; without end."""
    began_s = time.monotonic()
    while True:
        since_s, sent = time.monotonic(), sender.sent
        for _ in range(_SHOWN_EVERY):
            await asyncio.sleep(_SAMPLE_S)
            fleet.replace_the_dead()
            shown = memory.sample(fleet)
        now_s = time.monotonic()
        rate = (sender.sent - sent) / (now_s - since_s)
        say(
            f"{(now_s - began_s) / 60:4.1f} min, {sender.sent:,} submits, {rate:,.0f}/s, "
            f"lag {pulse.lag_s:.1f} s, kills {len(trouble.took_s['kill'])}, MB: {shown}"
        )


async def until_committed(settings: Settings, sent: int) -> None:
    """Return when the workers have taken everything; or when they had time enough to."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            while sum((await committed(settings)).values()) < sent:  # noqa: ASYNC110 - Kafka has no event for it
                await asyncio.sleep(0.5)


async def soak(settings: Settings, folder: Path, minutes: float, rate: float, seed: int) -> Account:
    """Traffic, workers and troubles for so long; then what they said is judged."""
    await topics.create(settings)
    from_ms = int(time.time() * 1_000) + _START_MS
    to_ms = from_ms + int(minutes * 60_000)
    traffic = Traffic(seed, rate, settings.partitions, from_ms)
    producer = await started_producer(settings, max_batch_size=_BATCH_BYTES, compression_type="zstd")
    sender = Sender(producer, topics.SUBMIT.with_prefix(settings.topic_prefix).name)
    fleet, pulse, memory = Fleet(settings, folder), Pulse(settings), Memory()
    trouble = Trouble(fleet, pulse, seed, say)
    try:
        with fleet.at_work():
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(pulse.listen())
                watching = tasks.create_task(watch(sender, fleet, pulse, trouble, memory))
                troubling = tasks.create_task(trouble.go_on(TROUBLE_EVERY_S, to_ms))
                await sender.run(traffic, from_ms, to_ms)
                sent_rate = sender.sent * 1_000 / (time.time() * 1_000 - from_ms)
                await asyncio.wait([troubling], timeout=_PATIENCE_S)
                for task in (listening, watching, troubling):
                    task.cancel()
            for partition, lines in traffic.farewell(to_ms).items():
                await sender.send(partition, lines, to_ms + AHEAD_MS)
            await producer.flush()
            await until_committed(settings, sender.sent)
            await fleet.stop_all()
    finally:
        await producer.stop()
    verdict = await judge(settings, to_ms, say)
    return Account(sender.sent, rate, sent_rate, pulse.longest_wait_ms, trouble, memory, fleet.wrong, verdict)


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


async def run(minutes: float, rate: float, seed: int) -> None:
    """Soak, print, and exit with 1 if something was wrong."""
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with kept_when_wrong() as folder:
        write(folder, rate, int(time.time() * 1_000))
        with ApacheKafka({"log.message.timestamp.after.max.ms": str(2 * AHEAD_MS)}) as kafka:
            settings = load_settings(
                bootstrap_servers=(kafka.bootstrap,),
                partitions=PARTITIONS,
                group_id="soak",
                registry_dir=folder / "registry",
                state_in=folder / "state",
                emit_panes=True,
                http_port=0,
            )
            account = await soak(settings, folder, minutes, rate, seed)
        for detail in account.details():
            say(detail)
        complaints = list(account.complaints())
        for complaint in complaints:
            say(f"WRONG: {complaint}")
        print(account.line)
        if complaints:
            sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=50_000.0, help="submits a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if missing := ApacheKafka.missing():
        sys.exit(missing)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # new topics have no leader for a moment
    try:
        asyncio.run(run(options.minutes, options.rate, options.seed))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
