"""`make bench`: every stage and the whole path, beside stock Faust and bare aiokafka, in one run on this machine.

    python -m tests.bench.run [--records N]

Each measurement is a process of its own, so that memory and interpreter state are its own. CPU is that process' alone.
"""

import argparse
import asyncio
import datetime as dt
import logging
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import msgspec

from streams import topics
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.settings import Settings, load_settings
from tests.bench import drain, traffic
from tests.bench.measured import Measured
from tests.servers import ApacheKafka

RECORDS = 1_000_000
STOCK_SECONDS = 30.0  # in its first ten it runs up to a tenth faster: what it writes for its table waits in a buffer
ROUNDS = 3
"""Of each measurement the best round counts: what disturbs a run only ever makes it slower."""

PARTITIONS = 4
PARTS = ("decode", "extract", "volume", "checkpoint")


def machine() -> str:
    """What this was measured on, and with what."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("faust-streaming", "aiokafka", "msgspec", "numpy"))
    return (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {model}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, {packages}, Apache Kafka 4.3.1"
    )


def fastest(name: str, *arguments: str, environment: Mapping[str, str], core: int | None = None) -> Measured:
    """Run a benchmark module some times, pinned to a core or not, and take its best figures."""
    pin = [] if core is None else ["taskset", "--cpu-list", str(core)]
    found = []
    for _ in range(ROUNDS):
        group = {"PORTWATCH_GROUP_ID": f"bench-{secrets.token_hex(6)}"}
        done = subprocess.run(
            [*pin, sys.executable, "-m", f"tests.bench.{name}", *arguments],
            env={**os.environ, **environment, **group},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append(msgspec.json.decode(done.stdout.splitlines()[-1], type=Measured))
    return max(found, key=lambda one: one.per_s)


def row(name: str, found: Measured) -> str:
    return f"{name:44}{found.per_s:>14,.0f}{found.cpu_s_per_million:>12.2f}{found.peak_mb:>10.0f}"


async def fill(settings: Settings, folder: Path) -> None:
    await topics.create(settings)
    await feed(SubmitLines(), folder / "submits.jsonl", settings)


def main(records: int) -> None:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # new topics have no leader for a moment
    print(machine())
    print(
        f"{records:,} submits of about {traffic.RECORD_BYTES} bytes, {traffic.PORTS:,} ports, {PARTITIONS} partitions\n"
    )
    with tempfile.TemporaryDirectory() as name, ApacheKafka() as kafka:
        folder = Path(name)
        traffic.write(folder, records)
        environment = {
            "PORTWATCH_BOOTSTRAP_SERVERS": kafka.bootstrap,
            "PORTWATCH_PARTITIONS": str(PARTITIONS),
            "PORTWATCH_REGISTRY_DIR": str(folder / "registry"),
            "PORTWATCH_HTTP_PORT": "0",
            "PORTWATCH_LOG_LEVEL": "warning",
        }
        settings = load_settings(bootstrap_servers=(kafka.bootstrap,), partitions=PARTITIONS)
        asyncio.run(fill(settings, folder))
        print(f"{'':44}{'records/s':>14}{'CPU s/M':>12}{'peak MB':>10}")
        core = max(os.sched_getaffinity(0))
        whole = {
            "pinned": fastest("pipeline", str(records), environment=environment, core=core),
            "not pinned": fastest("pipeline", str(records), environment=environment),
        }
        for label, found in whole.items():
            print(row(f"whole pipeline, {label}", found), flush=True)
        for stage, seconds in sorted(whole["pinned"].stages.items(), key=lambda item: -item[1]):
            print(f"  of which {stage:33}{records / seconds:>14,.0f}{seconds / records * 1e6:>12.2f}")
        stock = {
            label: fastest("stock", topics.SUBMIT.name, str(STOCK_SECONDS), *table, environment=environment, core=core)
            for label, table in (("without a table", []), ("with a table", ["--table"]))
        }
        for label, found in stock.items():
            print(row(f"stock Faust, pinned, {label}", found), flush=True)
        ratio = whole["pinned"].per_s / stock["with a table"].per_s
        print(f"\nwhole pipeline / stock Faust with a table: {ratio:,.0f}, both pinned")
        unpinned = whole["not pinned"].per_s / whole["pinned"].per_s
        print(f"not pinned / pinned: {unpinned:.2f}\n")
        asyncio.run(drain.main(kafka.bootstrap, min(records, drain.RECORDS)))
    for name in PARTS:
        print(f"\n{name}, pinned")
        sys.stdout.flush()
        subprocess.run(["taskset", "--cpu-list", str(core), sys.executable, "-m", f"tests.bench.{name}"], check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=RECORDS)
    main(parser.parse_args().records)
