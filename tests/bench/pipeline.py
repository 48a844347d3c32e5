"""The whole worker against a filled topic: drain, decode, three detectors, outputs, checkpoints, metrics.

python -m tests.bench.pipeline RECORDS   (settings from PORTWATCH_*; the topics are there and filled)
"""

import asyncio
import sys
import time

import msgspec
from prometheus_client import CollectorRegistry

from streams.settings import load_settings
from streams.worker.service import serve
from streams.worker.worker import Worker
from tests.bench.measured import Measured, peak_mb

POLL_S = 0.02


async def measure(records: int) -> Measured:
    """Run a worker of the settings until it has counted so many submits."""
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(load_settings(), stop, lambda worker, _: started.set_result(worker)))
    worker: Worker = await started
    began, cpu, first, seen = 0.0, 0.0, 0, 0
    while seen < records and not serving.done():
        await asyncio.wait([serving], timeout=POLL_S)
        seen = sum(view.tally.submits_in for view in worker.views.values())
        if not first:
            began, cpu, first = time.perf_counter(), time.process_time(), seen
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    stop.set()
    await serving
    return Measured(seen - first, seconds, cpu_seconds, peak_mb(), stages(worker.metrics.registry))


def stages(registry: CollectorRegistry) -> dict[str, float]:
    """Seconds spent per stage, from the worker's own metrics."""
    return {
        sample.labels["stage"]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "portwatch_stage_seconds_total"
    }


if __name__ == "__main__":
    print(msgspec.json.encode(asyncio.run(measure(int(sys.argv[1])))).decode())
