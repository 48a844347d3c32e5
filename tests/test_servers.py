"""The servers that other tests stand on: they answer, keep their data when they should, and leave nothing behind."""

import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streams.embedded import EmbeddedBroker, ServerError, TiedProcess, speaks_kafka
from tests.conftest import Broker, require
from tests.servers import Alertmanager, ApacheKafka, Prometheus, Promtool


async def send(bootstrap: str, topic: str, value: bytes) -> None:
    """One record, acknowledged."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value)


async def receive(bootstrap: str, topic: str) -> bytes:
    """The first record of the topic, through a new consumer group."""
    group = f"{topic}{secrets.token_hex(4)}"
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest"
    ) as consumer:
        record = await consumer.getone()
        return bytes(record.value)


def loopback_port(bootstrap: str) -> int:
    return int(bootstrap.rpartition(":")[2])


async def test_a_broker_carries_a_record(broker: Broker, topic_prefix: str) -> None:
    await send(broker.bootstrap, topic_prefix, b"one")
    assert await receive(broker.bootstrap, topic_prefix) == b"one"


async def test_the_embedded_broker_carries_a_record(topic_prefix: str) -> None:
    with EmbeddedBroker() as embedded:
        await send(embedded.bootstrap, topic_prefix, b"one")
        assert await receive(embedded.bootstrap, topic_prefix) == b"one"
    assert not speaks_kafka(loopback_port(embedded.bootstrap))


def alive(family: list[psutil.Process]) -> list[psutil.Process]:
    """Who of the family still runs, after 5 s to end. An orphan that nobody has reaped yet does not run."""
    deadline_s = time.monotonic() + 5
    while True:
        running = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        if not running or time.monotonic() > deadline_s:
            return running
        time.sleep(0.01)


@pytest.mark.parametrize("cause", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_embedded_broker_ends_with_its_parent(cause: signal.Signals) -> None:
    program = """if True:
        import time
        from streams.embedded import EmbeddedBroker
        with EmbeddedBroker() as broker:
            print(broker.bootstrap, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout
        bootstrap = parent.stdout.readline().decode().strip()
        family = psutil.Process(parent.pid).children(recursive=True)
        assert sorted(process.name() for process in family) == ["sh", "tansu"]
        assert speaks_kafka(loopback_port(bootstrap))
        parent.send_signal(cause)
    assert alive(family) == []
    assert not speaks_kafka(loopback_port(bootstrap))


def test_the_embedded_broker_leaves_no_process() -> None:
    before = psutil.Process().children(recursive=True)
    with EmbeddedBroker():
        assert len(psutil.Process().children(recursive=True)) == len(before) + 2
    assert psutil.Process().children(recursive=True) == before


@contextmanager
def tied(script: str) -> Iterator[TiedProcess]:
    """A shell script in the place of a server."""
    with tempfile.TemporaryFile() as log:
        process = TiedProcess(["sh", "-c", script], log)
        try:
            yield process
        finally:
            process.kill()


def test_a_server_that_dies_is_shown_with_what_it_said() -> None:
    with (
        tied("echo no room left; exit 3") as process,
        pytest.raises(ServerError, match=r"(?s)ended with exit code 3.*no room left"),
    ):
        process.await_ready(lambda: False, timeout_s=10)


def test_a_server_that_is_not_there_is_named() -> None:
    with tempfile.TemporaryFile() as log, pytest.raises(ServerError, match=r"/no/tansu can't be started: No such file"):
        TiedProcess(["/no/tansu"], log)


def test_a_server_that_stays_silent_is_given_up_and_its_children_end_too() -> None:
    with tied("sleep 61 & wait") as process:
        with pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
            process.await_ready(lambda: False, timeout_s=0.2)
        sleeper = [child for child in psutil.Process().children(recursive=True) if child.name() == "sleep"]
        assert len(sleeper) == 1
    assert alive(sleeper) == []


def test_a_missing_server_skips_and_fails_where_all_are_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PORTWATCH_REQUIRE_SERVERS", raising=False)
    require(None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install it"):
        require("It: apt-get install it")
    monkeypatch.setenv("PORTWATCH_REQUIRE_SERVERS", "1")
    require(None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install it"):
        require("It: apt-get install it")


@pytest.mark.kafka
async def test_apache_kafka_keeps_its_log_over_a_crash_and_a_restart(topic_prefix: str) -> None:
    require(ApacheKafka.missing())
    with ApacheKafka({"num.partitions": "3"}) as kafka:
        await send(kafka.bootstrap, topic_prefix, b"kept")
        kafka.kill()
        assert not speaks_kafka(loopback_port(kafka.bootstrap))
        kafka.start()
        assert await receive(kafka.bootstrap, topic_prefix) == b"kept"
        kafka.restart()
        assert await receive(kafka.bootstrap, topic_prefix) == b"kept"
        assert "Kafka Server started" in kafka.log
        assert "num.partitions = 3" in kafka.log
        folder = kafka.folder
    assert not folder.exists()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - always http to 127.0.0.1
        return str(response.read(), "utf-8")


@pytest.mark.observability
def test_prometheus_takes_another_configuration_and_refuses_a_wrong_one(prometheus: Prometheus) -> None:
    prometheus.reload("global: {external_labels: {site: north}}\n")
    answer = json.loads(get(f"{prometheus.url}/api/v1/status/config"))
    assert "site: north" in answer["data"]["yaml"]
    with pytest.raises(urllib.error.HTTPError, match="500") as refused:
        prometheus.reload("global: {no_such_key: 1}\n")
    refused.value.close()
    assert "no_such_key" in prometheus.log


@pytest.mark.observability
def test_alertmanager_is_alone_and_takes_another_configuration(alertmanager: Alertmanager) -> None:
    alertmanager.reload("route: {receiver: noc}\nreceivers: [{name: noc}]\n")
    status = json.loads(get(f"{alertmanager.url}/api/v2/status"))
    assert "receiver: noc" in status["config"]["original"]
    assert status["cluster"]["status"] == "disabled"


@pytest.mark.observability
def test_promtool_tells_good_metrics_from_bad() -> None:
    require(Promtool.missing())
    good = "# HELP portwatch_x_total Something.\n# TYPE portwatch_x_total counter\nportwatch_x_total 1\n"
    assert Promtool.run("check", "metrics", stdin=good).returncode == 0
    wrong = Promtool.run("check", "metrics", stdin=good.replace("_total", ""))
    assert (wrong.returncode, "counter metrics should have" in wrong.stderr) == (3, True)
