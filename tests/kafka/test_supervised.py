"""A supervisor and a worker in trouble, as processes: who stalls or hangs is restarted, and all is counted once."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import psutil
import pytest
import yaml
from aiokafka import AIOKafkaProducer, TopicPartition

from streams import topics
from streams.embedded import free_port
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.kafka import connection, consumer_client
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings
from streams.state_file import partition_of
from tests.conftest import require
from tests.oracle import heard, uninterrupted
from tests.running import PATIENCE_S, environment, until_committed
from tests.servers import ROOT, Prometheus

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

WATCHDOG_S = 15.0
PORT_OF_NOBODY = "10690000"


class Systemd:
    """A service manager in small: Type=notify, WatchdogSec=15, Restart=always; it listens at an abstract address."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._environment = environment(settings)
        self._log = log
        self._address = f"portwatch-{os.getpid()}-{free_port()}"
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise)
        self.lives: list[list[str]] = []  # of each process: what it told, repeats once
        self.ends: list[int] = []  # of each process that is over: its exit code
        self.process: subprocess.Popen[bytes]

    @property
    def is_ready(self) -> bool:
        return len(self.lives) > len(self.ends) and "READY=1" in self.lives[-1]

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self._address)
        self._socket.settimeout(0.2)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping.set()
        self._thread.join()
        self._socket.close()

    def _supervise(self) -> None:
        while not self._is_stopping.is_set():
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "streams.cli", "worker"],
                    env=self._environment | {"NOTIFY_SOCKET": f"@{self._address}", "PYTHONFAULTHANDLER": "1"},
                    stderr=log,
                )
            self.lives.append([])
            try:
                self._watch()
            finally:
                self.process.kill()
                self.ends.append(self.process.wait())

    def _watch(self) -> None:
        """Until the process ends, is to be stopped, or its watchdog has been missed."""
        alive_s = None
        while self.process.poll() is None:
            told = self._heard()
            self.lives[-1] += [word for word in told if word not in self.lives[-1]]
            if self._is_stopping.is_set():
                self.process.terminate()
                self.process.wait(15)
                self.lives[-1] += self._heard()
            elif "READY=1" in self.lives[-1]:
                if alive_s is None or "WATCHDOG=1" in told:
                    alive_s = time.monotonic()
                elif time.monotonic() - alive_s > WATCHDOG_S:
                    self.process.send_signal(signal.SIGABRT)
                    time.sleep(0.5)  # to say where it hangs
                    return

    def _heard(self) -> list[str]:
        try:
            return self._socket.recv(4_096).decode().splitlines()
        except TimeoutError:
            return []


def get(url: str) -> tuple[int, str]:
    """Status (0 if nothing answers) and body."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - the worker's and Prometheus' own addresses
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
    except OSError as error:
        return 0, str(error)


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def until_all_is_committed(settings: Settings) -> None:
    name = settings.topic_prefix + topics.SUBMIT.name
    async with consumer_client(settings) as consumer:
        ends = await consumer.end_offsets([TopicPartition(name, n) for n in range(settings.partitions)])
    await until_committed(settings, lambda offsets: offsets == {tp.partition: end for tp, end in ends.items()})


@pytest.fixture
async def watched(settings: Settings, morning: Path) -> Settings:
    """Of a worker whose topics are there, and whose HTTP port is known."""
    await topics.create(settings)
    await publish(load_folder(morning / "registry"), settings)
    return settings.model_copy(update={"http_port": free_port()})


@pytest.mark.observability
async def test_a_stalled_partition_is_told_to_everybody_and_its_worker_restarted(
    watched: Settings, morning: Path, tmp_path: Path, prometheus: Prometheus
) -> None:
    """A producer that leaves its transaction open hides from the worker what is behind it, on that partition alone."""
    url, log = f"http://127.0.0.1:{watched.http_port}", tmp_path / "worker.log"
    prometheus.reload(scraping(f"127.0.0.1:{watched.http_port}"))
    hung = partition_of(PORT_OF_NOBODY, watched.partitions)
    hanging = AIOKafkaProducer(**connection(watched), transactional_id=watched.group_id, transaction_timeout_ms=300_000)
    with Systemd(watched, log) as systemd:
        await until(lambda: systemd.is_ready)
        await hanging.start()
        async with hanging.transaction():
            name = watched.topic_prefix + topics.SUBMIT.name
            await hanging.send_and_wait(name, b"{}", key=PORT_OF_NOBODY.encode(), partition=hung)
            sending = asyncio.create_task(feed(SubmitLines(), morning / "submits.jsonl", watched, speed=80.0))
            wrong = f"partition {hung} stalled for 3"
            await until(lambda: get(f"{url}/healthz")[1].startswith(wrong))
            assert get(f"{url}/healthz")[0] == 503
            shown = [line for line in get(f"{url}/metrics")[1].splitlines() if "portwatch_stalled_seconds{" in line]
            assert [int(float(line.split()[-1]) > 30) for line in shown] == [int(n == hung) for n in range(len(shown))]
            await until(lambda: f"ERROR streams.worker.watchdog: {wrong}" in log.read_text())
            await until(partial(is_told, prometheus, hung))
            await until(lambda: bool(systemd.ends))
        await hanging.stop()
        await sending
        await until_all_is_committed(watched)
        await until(lambda: get(f"{url}/healthz") == (200, "ok\n") and systemd.is_ready)
    assert systemd.ends == [-signal.SIGABRT, 0]
    assert any(word.startswith(f"STATUS={wrong}") for word in systemd.lives[0])
    assert systemd.lives[1][-1] == "STOPPING=1"
    said, _ = await heard(watched)
    assert said == await uninterrupted(watched, morning / "registry")
    assert len(said.panes) > 10_000


def scraping(target: str) -> str:
    """A configuration that looks once a second, by the rules as they are shipped."""
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy" / "monitoring" / "rules.yaml")],
            "scrape_configs": [{"job_name": "portwatch", "static_configs": [{"targets": [target]}]}],
        }
    )


def is_told(prometheus: Prometheus, partition: int) -> bool:
    alerts = yaml.safe_load(get(f"{prometheus.url}/api/v1/alerts")[1])["data"]["alerts"]
    wanted = {"alertname": "PortwatchStalled", "job": "portwatch", "partition": str(partition), "severity": "critical"}
    return any(alert["labels"] == wanted and alert["state"] == "firing" for alert in alerts)


async def test_a_worker_that_hangs_is_restarted(watched: Settings, morning: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{watched.http_port}"
    with Systemd(watched, tmp_path / "worker.log") as systemd:
        await until(lambda: systemd.is_ready)
        sending = asyncio.create_task(feed(SubmitLines(), morning / "submits.jsonl", watched, speed=400.0))
        await until_committed(watched, lambda offsets: sum(offsets.values()) > 5_000)
        systemd.process.send_signal(signal.SIGSTOP)
        assert get(f"{url}/healthz")[0] == 0
        await until(lambda: bool(systemd.ends))
        await sending
        await until_all_is_committed(watched)
        await until(lambda: systemd.is_ready)
    assert systemd.ends == [-signal.SIGKILL, 0]  # a stopped process hears nothing but that
    said, _ = await heard(watched)
    assert said == await uninterrupted(watched, morning / "registry")


async def test_one_that_waits_for_kafka_is_alive_and_not_restarted(settings: Settings, tmp_path: Path) -> None:
    """So a worker that was restarted while Kafka is away does not flap."""
    absent = settings.model_copy(
        update={"bootstrap_servers": (f"127.0.0.1:{free_port()}",), "broker_wait_s": 600.0, "http_port": free_port()}
    )
    url = f"http://127.0.0.1:{absent.http_port}"
    with Systemd(absent, tmp_path / "worker.log") as systemd:
        await until(lambda: get(f"{url}/readyz") == (503, "waiting for Kafka\n"))
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert "portwatch_lost_records_total 0.0" in get(f"{url}/metrics")[1]
        await until(lambda: "STATUS=waiting for Kafka" in systemd.lives[0])
    assert systemd.ends == [0]
    assert systemd.lives == [["EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1", "STATUS=waiting for Kafka", "STOPPING=1"]]


# ---- Docker


class Container:
    """What compose.yaml makes of a worker, by hand: an init and processes of its own, a root that is read-only, no
    capabilities."""

    POWERLESS = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs")

    def __init__(self, settings: Settings, log: Path) -> None:
        self._environment = environment(settings) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self._log = log

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        spaces = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--"]
        init = 'mount -o remount,bind,ro / && "$@" & wait $!; exit $?'
        worker = [*self.POWERLESS, sys.executable, "-m", "streams.cli", "worker"]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*spaces, "/bin/sh", "-c", init, "init", *worker], env=self._environment, stderr=log, cwd=ROOT
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def check(self, process: "subprocess.Popen[bytes]") -> int:
        """Run the health check of compose.yaml in there; its exit code."""
        services = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
        _, command = services["worker"]["healthcheck"]["test"]
        (init,) = psutil.Process(process.pid).children()
        enter = ["nsenter", "--target", str(init.pid), "--pid", "--mount", "--"]
        words = [*enter, *self.POWERLESS, "/bin/sh", "-c", command.replace("$$", "$")]
        return subprocess.run(words, env=self._environment, check=False, timeout=60, capture_output=True).returncode


async def test_the_health_check_of_compose_ends_a_worker_that_hangs(watched: Settings, tmp_path: Path) -> None:
    """Docker then starts the container again; that is all it does by itself."""
    require(None if os.geteuid() == 0 else "a container by hand: run the tests as root")
    url, log = f"http://127.0.0.1:{watched.http_port}", tmp_path / "worker.log"
    container = Container(watched, log)
    with container.running() as process:
        await until(lambda: get(f"{url}/readyz") == (200, "ok\n"))
        assert container.check(process) == 0
        worker = psutil.Process(process.pid).children(recursive=True)[-1]
        assert "\nCapEff:\t0000000000000000\n" in Path(f"/proc/{worker.pid}/status").read_text()  # noqa: ASYNC240 - no disk
        worker.suspend()
        assert container.check(process) != 0
        assert process.wait(10) == 128 + signal.SIGKILL
    with container.running() as process:
        await until(lambda: get(f"{url}/readyz") == (200, "ok\n"))
        assert container.check(process) == 0
