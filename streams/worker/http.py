"""What a worker shows over HTTP: metrics for Prometheus, health for a supervisor. On loopback unless told otherwise.

Health means 'offsets advance', not 'the process is up'.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streams.settings import Settings
from streams.worker.metrics import PartitionView

STALLED_S = 30.0
"""A partition that has not advanced for so long is stalled, unless Kafka says that there is nothing to read."""


def stalled(views: dict[int, PartitionView], now_s: float) -> dict[int, float]:
    """The partitions that are stalled, and for how many seconds."""
    return {
        partition: now_s - view.advanced_at_s
        for partition, view in sorted(views.items())
        if now_s - view.advanced_at_s > STALLED_S
    }


@asynccontextmanager
async def served(
    settings: Settings,
    registry: CollectorRegistry,
    is_ready: Callable[[], str | None],
    is_healthy: Callable[[], str | None],
) -> AsyncIterator[int]:
    """Serve /metrics, /healthz and /readyz; gives the TCP port. The checks name what is wrong, or say None."""

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
    app.router.add_get("/healthz", check(is_healthy))  # type: ignore[arg-type] # aiohttp wants its own alias
    app.router.add_get("/readyz", check(is_ready))  # type: ignore[arg-type] # as above
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.http_host, settings.http_port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
