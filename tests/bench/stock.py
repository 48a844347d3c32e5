"""Stock Faust on the same topic, as its documentation would have it: an agent, an event a record, a count in a table.

python -m tests.bench.stock TOPIC SECONDS [--table]   (broker from PORTWATCH_BOOTSTRAP_SERVERS)
"""

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
import time

import faust
import msgspec

from streams.settings import load_settings
from streams.worker.transport import HEARTBEAT_S, SESSION_TIMEOUT_S
from tests.bench.measured import Measured, peak_mb


async def measure(topic: str, seconds: float, *, with_table: bool) -> Measured:
    """Count records for so many seconds from the first on."""
    app = faust.App(
        f"stock.{secrets.token_hex(4)}",
        broker=[f"kafka://{address}" for address in load_settings().bootstrap_servers],
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_rebalance_timeout=SESSION_TIMEOUT_S,
        consumer_auto_offset_reset="earliest",
        topic_disable_leader=True,
        topic_partitions=int(os.environ["PORTWATCH_PARTITIONS"]),
        web_enabled=False,
        worker_redirect_stdouts=False,
        store="memory://",
        datadir=tempfile.gettempdir(),
    )
    counts = app.Table("counts", default=int) if with_table else None
    done: asyncio.Future[Measured] = asyncio.get_running_loop().create_future()

    async def count(stream: faust.Stream) -> None:
        seen, began, cpu = 0, time.perf_counter(), time.process_time()
        async for submit in stream:
            if not seen:
                began, cpu = time.perf_counter(), time.process_time()
            if counts is not None:
                counts[submit["access_port"]] += 1
            seen += 1
            if time.perf_counter() - began > seconds and not done.done():
                done.set_result(Measured(seen, time.perf_counter() - began, time.process_time() - cpu, peak_mb()))

    app.agent(app.topic(topic, value_serializer="json", key_serializer="raw"))(count)
    await app.start()
    measured = await done
    with contextlib.suppress(TimeoutError):  # it may take longer to say good-bye than anybody waits
        await asyncio.wait_for(app.stop(), 10)
    return measured


if __name__ == "__main__":
    result = asyncio.run(measure(sys.argv[1], float(sys.argv[2]), with_table="--table" in sys.argv))
    print(msgspec.json.encode(result).decode(), flush=True)
    os._exit(0)  # Faust's threads may hang on
