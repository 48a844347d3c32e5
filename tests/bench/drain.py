"""How fast records come out of Kafka: bare aiokafka, the raw drain without Faust, and with it.

    python -m tests.bench.drain --bootstrap HOST:PORT [--records N]

Prints records per second and CPU microseconds per record, pinned to one core and not: two cores must not be slower than
one. CPU is this process' alone; the broker's is not in it. `make bench` and other benchmarks import the functions.
"""

import argparse
import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic

from streams.kafka import admin_client
from streams.settings import Settings
from streams.worker.transport import PartitionBatch, drain, make_app, run

PARTITIONS = 4
RECORDS = 600_000
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Rate:
    """What one run took for so many records."""

    records: int
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        return f"{self.records / self.seconds:>12,.0f} {self.cpu_seconds / self.records * 1e6:>10.2f}"


class _Clock:
    """Counts from the first records on: joining a group is not what is measured."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen = wanted, 0
        self.done = asyncio.Event()

    def count(self, records: int) -> None:
        if not self.seen:
            self._uncounted, self._started, self._cpu_started = records, time.perf_counter(), time.process_time()
        self.seen += records
        if self.seen >= self.wanted:
            self._rate = Rate(
                self.seen - self._uncounted,
                time.perf_counter() - self._started,
                time.process_time() - self._cpu_started,
            )
            self.done.set()

    async def rate(self) -> Rate:
        await self.done.wait()
        return self._rate


def submits(count: int) -> list[tuple[bytes, bytes]]:
    """Keys and JSON values of about 300 bytes, as a gateway's adapter sends them."""
    return [
        (
            f"1069{number % 2000:04d}".encode(),
            msgspec.json.encode(
                {
                    "event_id": f"e{number:012d}",
                    "event_time_ms": 1_790_000_000_000 + number,
                    "access_port": f"1069{number % 2000:04d}",
                    "extension": "01",
                    "sp_id": "901234",
                    "account": f"acct-{number % 100}",
                    "protocol": "cmpp",
                    "carrier": "mobile",
                    "province": "gd",
                    "recipient_count": 1,
                    "text": f"【示例银行】您的验证码是{number * 7919 % 1_000_000:06d},5分钟内有效",
                }
            ),
        )
        for number in range(count)
    ]


@asynccontextmanager
async def filled_topic(settings: Settings, records: int, compression: str | None = None) -> AsyncIterator[str]:
    """A new topic of PARTITIONS partitions with that many submits, deleted afterwards; batches of the usual 16 kB."""
    topic = f"bench.{secrets.token_hex(6)}"
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        producer = AIOKafkaProducer(
            bootstrap_servers=list(settings.bootstrap_servers), linger_ms=20, compression_type=compression
        )
        await producer.start()
        rows = submits(20_000)
        for start in range(0, records, len(rows)):
            sent = [
                await producer.send(topic, value, key, partition=index % PARTITIONS)
                for index, (key, value) in enumerate(rows[: records - start])
            ]
            await asyncio.gather(*sent)
        await producer.stop()
        yield topic
        await admin.delete_topics([topic])


async def getmany(settings: Settings, topic: str, records: int) -> Rate:
    """aiokafka's own poll."""
    async with _assigned(settings, topic) as consumer:
        clock = _Clock(records)
        while not clock.done.is_set():
            for rows in (await consumer.getmany(timeout_ms=1000)).values():
                clock.count(len(rows))
        return await clock.rate()


async def bare(settings: Settings, topic: str, records: int) -> Rate:
    """Our drain on a bare aiokafka consumer: what Faust is compared with."""
    async with _assigned(settings, topic) as consumer:
        fetcher, clock = consumer._fetcher, _Clock(records)
        while not clock.done.is_set():
            for partition, result in list(fetcher._records.items()):
                batch, _ = drain(result._partition_records)
                result._update_position()
                if not result._partition_records._records.has_next():
                    del fetcher._records[partition]
                    fetcher._notify(fetcher._wait_consume_future)
                clock.count(len(batch) if batch else 0)
            await asyncio.wait([fetcher._create_fetch_waiter()], timeout=1.0)
        return await clock.rate()


async def in_faust(settings: Settings, topic: str, records: int) -> Rate:
    """Our transport, up to an agent that lets each batch go."""
    app = make_app(settings.model_copy(update={"group_id": f"{topic}.{secrets.token_hex(4)}"}), [topic])
    clock = _Clock(records)

    @app.agent(app.batches(topic))
    async def count(stream: AsyncIterator[PartitionBatch]) -> None:
        async for batch in stream:
            clock.count(len(batch))

    running = asyncio.create_task(run(app, clock.done))
    rate = await clock.rate()
    await running
    return rate


@asynccontextmanager
async def _assigned(settings: Settings, topic: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=list(settings.bootstrap_servers), auto_offset_reset="earliest", max_poll_records=None
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
    try:
        yield consumer
    finally:
        await consumer.stop()


WAYS: dict[str, Callable[[Settings, str, int], Awaitable[Rate]]] = {
    "aiokafka getmany": getmany,
    "drain, bare": bare,
    "drain in Faust": in_faust,
}


async def fastest(measure: Callable[[Settings, str, int], Awaitable[Rate]], *to: object) -> Rate:
    """The best of ROUNDS: what disturbs a run only ever makes it slower."""
    rates = [await measure(*to) for _ in range(ROUNDS)]  # type: ignore[arg-type]
    return min(rates, key=lambda rate: rate.seconds)


async def main(bootstrap: str, records: int) -> None:
    settings = Settings(bootstrap_servers=(bootstrap,))
    cores = os.sched_getaffinity(0)
    async with filled_topic(settings, records) as topic:
        print(f"{'':28}{'records/s':>12} {'CPU us/rec':>10}")
        for label, allowed in (("pinned", {max(cores)}), ("all cores", cores)):
            os.sched_setaffinity(0, allowed)
            for name, measure in WAYS.items():
                print(f"{name + ', ' + label:28}{await fastest(measure, settings, topic, records)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bootstrap", default=os.environ.get("BENCH_BOOTSTRAP"), required="BENCH_BOOTSTRAP" not in os.environ
    )
    parser.add_argument("--records", type=int, default=RECORDS)
    options = parser.parse_args()
    asyncio.run(main(options.bootstrap, options.records))
