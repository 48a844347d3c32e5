"""What a worker shows over HTTP: metrics for Prometheus, health for a supervisor. On loopback unless told otherwise.

Health means 'offsets advance', not 'the process is up'.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streams.settings import Settings
from streams.worker.metrics import PartitionView
from streams.worker.worker import Worker

STALLED_S = 30.0
"""A partition that has not advanced for so long is stalled, unless Kafka says that there is nothing to read."""


class ListenError(Exception):
    """The address of the HTTP server can't be had; the text names the settings."""


def stalled(views: dict[int, PartitionView], now_s: float) -> dict[int, float]:
    """The partitions that are stalled, and for how many seconds."""
    return {
        partition: now_s - view.advanced_at_s
        for partition, view in sorted(views.items())
        if now_s - view.advanced_at_s > STALLED_S
    }


class Health:
    """How a worker stands. Before it has begun to `read` it may wait as long as it must: that is no illness."""

    def __init__(self) -> None:
        self.waits_for = "Kafka"
        self._worker: Worker | None = None
        self._taken_over = (False, 0)  # everything, and how many partitions so far
        self._taken_over_s = 0.0  # monotonic: when that last changed

    def reads(self, worker: Worker) -> None:
        """From now on offsets must advance."""
        self._worker, self._taken_over_s = worker, time.monotonic()

    def unready(self) -> str | None:
        """What is missing until it reads; None if nothing is."""
        if self._worker is None:
            return f"waiting for {self.waits_for}"
        return None if self._worker.is_assigned.is_set() else "the group has not shared its partitions yet"

    def problem(self) -> str | None:
        """What only a restart may mend; None if all is well. Asked once a second, it sees the group's sharing too."""
        if self._worker is None:
            return None
        views, now_s = self._worker.views, time.monotonic()
        taken_over = (self._worker.is_assigned.is_set(), len(views))
        if taken_over != self._taken_over:
            self._taken_over, self._taken_over_s = taken_over, now_s
        quiet_s = now_s - self._taken_over_s
        if quiet_s <= STALLED_S:
            return None
        if not self._worker.is_assigned.is_set():
            return f"no partitions from the group for {quiet_s:.0f} s"
        wrong = stalled(views, now_s)
        return ", ".join(f"partition {number} stalled for {age_s:.0f} s" for number, age_s in wrong.items()) or None


@asynccontextmanager
async def served(settings: Settings, registry: CollectorRegistry, health: Health) -> AsyncIterator[int]:
    """Serve /metrics, /healthz and /readyz; gives the TCP port. Raises `ListenError`."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return web.Response(body=encode(registry), headers={"content-type": content_type})

    def check(problem: Callable[[], str | None]) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            wrong = problem()
            return web.Response(text=f"{wrong or 'ok'}\n", status=503 if wrong else 200)

        return answer

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    app.router.add_get("/healthz", check(health.problem))  # type: ignore[arg-type] # aiohttp wants its own alias
    app.router.add_get("/readyz", check(health.unready))  # type: ignore[arg-type] # as above
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.http_host, settings.http_port)
        try:
            await site.start()
        except OSError as error:
            raise ListenError(
                f"PORTWATCH_HTTP_HOST, PORTWATCH_HTTP_PORT: '{settings.http_host}', {settings.http_port}: "
                f"{error.strerror or error} (another worker? port 0 is any free one)"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
