"""Real servers for tests: Apache Kafka, Prometheus, Alertmanager, each on free ports of 127.0.0.1.

A server is a context manager: ready when its block starts, gone with its folder when it ends, and its log is shown when
it fails to start. `missing()` says what this machine lacks and the command that brings it.
"""

import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from streams.embedded import TiedProcess, free_port

ROOT = Path(__file__).resolve().parent.parent
KAFKA_LIBS = ROOT / ".cache" / "kafka" / "libs"

TOOLS = {
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-leader-election.sh": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-topics.sh": "org.apache.kafka.tools.TopicCommand",
}

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


def answers_http(url: str) -> bool:
    """Whether GET `url` gives a 2xx."""
    try:
        with urllib.request.urlopen(url, timeout=1.0):  # noqa: S310 - always http to 127.0.0.1
            return True
    except OSError:
        return False


def knows_brokers(port: int) -> bool:
    """Whether the broker on 127.0.0.1 names one in its metadata (v1, of no topics): it speaks before it may work."""
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            _, _, brokers = struct.unpack(">iii", connection.recv(12, socket.MSG_WAITALL))
    except (OSError, struct.error):
        return False
    return bool(brokers)


class Server(ABC):
    """One process with a folder of its own; a subclass says how to start it and when it is ready."""

    folder: Path

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """What this machine lacks to run the server and the command that installs it; None when nothing."""

    @abstractmethod
    def command(self) -> Sequence[str]:
        """What to start; called when `folder` exists."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether the server does its work now."""

    @abstractmethod
    def prepare(self) -> None:
        """Fill the new `folder`."""

    @property
    def log(self) -> str:
        """Everything the server printed so far."""
        return (self.folder / "server.log").read_text(errors="replace")

    def start(self) -> None:
        """Start the process and wait until it is ready. Raises streams.embedded.ServerError with its log."""
        with ExitStack() as running:
            output = running.enter_context((self.folder / "server.log").open("ab+"))
            self._process = TiedProcess(self.command(), output)
            running.callback(self._process.kill)
            self._process.await_ready(self.ready, START_TIMEOUT_S)
            self._running = running.pop_all()

    def stop(self) -> None:
        """Ask the process to end in its own order; kill it after STOP_TIMEOUT_S."""
        self._process.terminate(STOP_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End the process at once, as a crash would. The folder stays for the next `start`."""
        self._running.close()

    def restart(self) -> None:
        """Stop, if it still runs, and start again with the same ports and data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self._room = tempfile.TemporaryDirectory(prefix="portwatch-")
        self.folder = Path(self._room.name)
        try:
            self.prepare()
            self.start()
        except BaseException:
            self._room.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._room.cleanup()


class ApacheKafka(Server):
    """A KRaft node, broker and controller in one, at `bootstrap`: alone, or one of a `KafkaCluster`.

    `properties` are added to server.properties and win over ours. `kill` and `start` keep the port and the log folder.
    `controller_ports`: of every node of the cluster, by node id.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        *,
        node_id: int = 1,
        controller_ports: Mapping[int, int] | None = None,
        cluster_id: str | None = None,
        heap_mb: int = 768,
    ) -> None:
        self._port, ports = free_port(), controller_ports or {node_id: free_port()}
        self.bootstrap = f"127.0.0.1:{self._port}"
        self._cluster_id = cluster_id or str(uuid.uuid4())
        self._heap_mb = heap_mb
        self._properties = {
            "process.roles": "broker,controller",
            "node.id": str(node_id),
            "controller.quorum.voters": ",".join(f"{voter}@127.0.0.1:{port}" for voter, port in ports.items()),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{ports[node_id]}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "offsets.topic.replication.factor": str(len(ports)),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": str(len(ports)),
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            # A node that was killed may register again only when its old session is over; the default is 9 s.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            **(properties or {}),
        }

    @classmethod
    def missing(cls) -> str | None:
        if shutil.which("java") is None:
            return "Apache Kafka needs Java 17: apt-get install openjdk-17-jre-headless maven, then make servers"
        if not any(KAFKA_LIBS.glob("kafka_2.13-*.jar")):
            return "Apache Kafka's jars are not in .cache/kafka/libs: make servers"
        return None

    def prepare(self) -> None:
        settings = {"log.dirs": str(self.folder / "data"), **self._properties}
        self._settings.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        storage = self._java("kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", str(self._settings))
        subprocess.run(storage, check=True, capture_output=True, timeout=START_TIMEOUT_S)

    def command(self) -> Sequence[str]:
        return self._java("kafka.Kafka", str(self._settings))

    def ready(self) -> bool:
        return knows_brokers(self._port)

    def freeze(self) -> None:
        """Give the process no time until `thaw`."""
        os.kill(self._process_id(), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process_id(), signal.SIGCONT)

    def _process_id(self) -> int:
        found = subprocess.run(["pgrep", "-f", f"kafka.Kafka {self._settings}"], capture_output=True, check=True)
        return int(found.stdout)

    def tool(self, command: str) -> str:
        """What one of Kafka's own command line tools says, run as its script would: `kafka-topics.sh --list ...`.

        Raises subprocess.CalledProcessError when it fails.
        """
        script, *words = shlex.split(command)
        if "--bootstrap-server" not in words:
            words += ["--bootstrap-server", self.bootstrap]
        run = self._java(TOOLS[script], *words)
        return subprocess.run(run, check=True, capture_output=True, text=True, timeout=START_TIMEOUT_S).stdout

    @property
    def _settings(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *words: str) -> list[str]:
        """A JVM with log4j's own default (to stdout) at INFO, and a collector without threads of its own."""
        options = [f"-Xmx{self._heap_mb}m", "-XX:+UseSerialGC", "-Dorg.apache.logging.log4j.level=INFO"]
        return ["java", *options, "-cp", f"{KAFKA_LIBS}/*", *words]


class KafkaCluster:
    """Nodes that are broker and controller each, by node id; any of them may be killed and started again."""

    def __init__(self, size: int = 3, properties: Mapping[str, str] | None = None) -> None:
        ports = {node_id: free_port() for node_id in range(1, size + 1)}
        cluster_id = str(uuid.uuid4())
        self.nodes = {
            node_id: ApacheKafka(
                properties, node_id=node_id, controller_ports=ports, cluster_id=cluster_id, heap_mb=256
            )
            for node_id in ports
        }
        self.bootstrap_servers = tuple(node.bootstrap for node in self.nodes.values())

    def __enter__(self) -> Self:
        # All at once: none is ready before a majority is.
        with ExitStack() as running, ThreadPoolExecutor(len(self.nodes)) as threads:
            for entered in [threads.submit(running.enter_context, node) for node in self.nodes.values()]:
                entered.result()
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes.values():
            node.kill()  # in their own order the last two would wait for a majority
        self._running.close()


class Configured(Server):
    """A server that reads one YAML file and answers HTTP at `url`, as Prometheus and Alertmanager do."""

    BINARY: ClassVar[str]
    OPTIONS: ClassVar[Sequence[str]]

    def __init__(self, config: str) -> None:
        self._config = config
        self._address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self._address}"

    @classmethod
    def missing(cls) -> str | None:
        # The binary and its Debian package have one name.
        return None if shutil.which(cls.BINARY) else f"{cls.__name__}: apt-get install {cls.BINARY}"

    def prepare(self) -> None:
        self._config_file.write_text(self._config)

    def command(self) -> Sequence[str]:
        place = [f"--config.file={self._config_file}", f"--web.listen-address={self._address}"]
        return [self.BINARY, *place, *(option.format(data=self.folder / "data") for option in self.OPTIONS)]

    def ready(self) -> bool:
        return answers_http(f"{self.url}/-/ready")

    def reload(self, config: str) -> None:
        """Go on with another config. Raises urllib.error.HTTPError when the server refuses it; its log says why."""
        self._config_file.write_text(config)
        with urllib.request.urlopen(f"{self.url}/-/reload", data=b"", timeout=10.0):  # noqa: S310 - as above
            pass

    @property
    def _config_file(self) -> Path:
        return self.folder / "config.yml"


class Prometheus(Configured):
    """A Prometheus at `url`, with `config` as its prometheus.yml."""

    BINARY = "prometheus"
    OPTIONS = (
        "--storage.tsdb.path={data}",
        "--web.enable-lifecycle",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    )


class Alertmanager(Configured):
    """An Alertmanager of one at `url`, with `config` as its alertmanager.yml. Debian ships it without its web UI."""

    BINARY = "prometheus-alertmanager"
    # An empty cluster address: no gossip, which would listen on every interface.
    OPTIONS = ("--storage.path={data}", "--cluster.listen-address=")


class Promtool:
    """Prometheus' checker of rules, configurations and metrics, from the same package as Prometheus."""

    @classmethod
    def missing(cls) -> str | None:
        """As Server.missing."""
        return None if shutil.which("promtool") else "promtool: apt-get install prometheus"

    @staticmethod
    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`promtool WORDS`; the caller judges `returncode` and shows `stdout` and `stderr` when it is wrong."""
        return subprocess.run(
            ["promtool", *words], input=stdin, capture_output=True, text=True, check=False, timeout=60
        )
