"""The composition of a worker process: settings to objects to a life that ends cleanly."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry

from detectors import catalog
from detectors.pipeline import Pipeline
from detectors.throttle import ThrottlePolicy
from detectors.volume.ports import Baselines
from streams import topics
from streams.kafka import MOST_REQUEST_BYTES, KafkaUnreachableError, producer_client, wait_for_broker
from streams.noc.alertmanager import AlertmanagerPush
from streams.registry import RegistryError, load_folder
from streams.registry_topics import TOPIC_OF, RegistryFollower
from streams.settings import Settings, notify_socket
from streams.state_file import StateFileError, history, seeding
from streams.worker.checkpoint import Checkpoints
from streams.worker.http import Health, ListenError, served
from streams.worker.metrics import Metrics, PartitionGauges
from streams.worker.offsets import Offsets
from streams.worker.outbox import Outbox
from streams.worker.transport import BatchApp, make_app, run
from streams.worker.watchdog import beat, notifier
from streams.worker.worker import RegistrySource, Timed, Worker

log = logging.getLogger(__name__)

TICK_S = 1.0
TOPICS_S = 30.0
"""How often to look whether the topics are still as a start requires."""
REMIND_S = 5.0  # how often to say what is being waited for
REPEAT_S = 60.0


class FolderRegistry:
    """A registry folder, read once at the start."""

    def __init__(self, folder: Path) -> None:
        self.registry = load_folder(folder)
        self._loaded_s = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._loaded_s


def pipeline_of(settings: Settings, spent: Callable[[str, float], None]) -> Pipeline:
    """The pipeline as the settings want it; `spent` hears how long each detector took, in seconds."""
    return Pipeline(
        detectors=tuple(Timed(detector, partial(spent, detector.name)) for detector in catalog.detectors()),
        lateness_ms=settings.lateness_ms,
        throttle=ThrottlePolicy(
            lasts_ms=settings.throttle_lasts_s * 1_000,
            most_at_once=settings.throttle_max_ports,
            most_share_ratio=settings.throttle_max_share,
        ),
    )


@asynccontextmanager
async def registry_of(
    settings: Settings, folder: FolderRegistry | None, health: Health
) -> AsyncIterator[RegistrySource]:
    """The registry to judge by: the folder, else the registry topics once they are read whole.

    Topics that are still empty are waited for: judged without a registry, the first submits would pass as lawful.
    """
    if folder:
        yield folder
        return
    async with RegistryFollower(settings) as follower:
        while not follower.is_published:
            health.waits_for = f"the registry: {follower.state}"
            log.info("%s", health.unready())
            with suppress(TimeoutError):
                await asyncio.wait_for(follower.published(), REMIND_S)
        yield follower


class Repeats(logging.Filter):
    """Lets a line of aiokafka through once in REPEAT_S: while a broker is away it has hundreds a second."""

    def __init__(self) -> None:
        super().__init__()
        self._told_s: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Lines are the same when only what is filled in differs."""
        if not record.name.startswith("aiokafka"):
            return True
        is_news = record.created - self._told_s.get(record.msg, 0.0) >= REPEAT_S
        if is_news:
            self._told_s[record.msg] = record.created
        return is_news


def live(settings: Settings) -> None:
    """`serve` as a process: log lines on stderr, SIGTERM and SIGINT end it in order, at any moment of its life."""
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger().handlers[0].addFilter(Repeats())
    logging.getLogger("aiokafka").setLevel(max(logging.ERROR, logging.getLogger().level))
    # What Faust tells of a crash, with its trace, `run` raises as well; the last is where it tells our own steps.
    for noisy in ("faust", "mode", "streams.worker.transport"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)

    async def main() -> None:
        stop, loop, starting = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()

        def end() -> None:
            if starting:
                starting.cancel()  # nothing is counted yet

        def on_signals(act: Callable[[], object]) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, act)

        on_signals(end)
        try:
            with notifier(notify_socket()) as tell:
                await serve(settings, stop, lambda *_: on_signals(stop.set), tell)
        except asyncio.CancelledError:
            if not (starting and starting.cancelling()):
                raise  # nobody told us to end: that is no success

    asyncio.run(main())


class StartError(Exception):
    """Everything that keeps a worker from starting, a line for each."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What a worker stands on."""

    http_port: int
    folder: FolderRegistry | None
    known: Baselines | None
    partitions: dict[str, int]  # of each topic by name


async def grounded(
    settings: Settings, house: AsyncExitStack, metrics_registry: CollectorRegistry, health: Health
) -> Ground:
    """Look at everything that a start needs; the HTTP server answers from here on, until `house` ends.

    Raises `StartError` with all that is wrong, not just the first of it.
    """
    wrong: list[str] = []

    @contextmanager
    def looking() -> Iterator[None]:
        try:
            yield
        except (ListenError, RegistryError, StateFileError, KafkaUnreachableError, topics.TopicError) as error:
            wrong.append(str(error))

    port, folder, known, partitions = 0, None, None, dict[str, int]()
    with looking():
        port = await house.enter_async_context(served(settings, metrics_registry, health))
        log.info("metrics and health at http://%s:%d", settings.http_host, port)
    with looking():
        folder = FolderRegistry(settings.registry_dir) if settings.registry_dir else None
    with looking():
        known = history(settings.state_in)
    with looking():
        patience_s = 0.0 if wrong else settings.broker_wait_s  # who can't start anyway hears so at once
        await wait_for_broker(settings.model_copy(update={"broker_wait_s": patience_s}), log.info)
        partitions = await topics.require(settings, _needed(settings))
    if wrong:
        raise StartError("\n".join(wrong))
    return Ground(port, folder, known, partitions)


async def serve(
    settings: Settings,
    stop: asyncio.Event,
    started: Callable[[Worker, int], None] | None = None,
    tell: Callable[..., None] = lambda *_: None,
) -> None:
    """Live as a worker until `stop` is set. `started` is told the worker and its HTTP port, `tell` how it stands.

    Raises `StartError`, or what made it impossible to go on: a checkpoint that can't be read.
    """
    metrics_registry, health = CollectorRegistry(), Health()
    metrics = Metrics(metrics_registry)
    pipeline = pipeline_of(settings, lambda name, seconds: metrics.stage_seconds.labels(name).inc(seconds))
    topic = topics.SUBMIT.with_prefix(settings.topic_prefix).name
    app = make_app(settings, [topic])
    push = AlertmanagerPush(
        settings.alertmanager_urls,
        now_ms=lambda: int(time.time() * 1_000),
        delivered=lambda outcome: metrics.deliveries.labels(outcome).inc(),
    )
    metrics.queued.set_function(lambda: push.pending)
    metrics.most_queued.set_function(lambda: push.most_pending)
    async with AsyncExitStack() as house:
        await house.enter_async_context(_background(beat(health, stop, tell), stop))
        ground = await grounded(settings, house, metrics_registry, health)
        registry = await house.enter_async_context(registry_of(settings, ground.folder, health))
        producer = await house.enter_async_context(producer_client(settings, max_request_size=MOST_REQUEST_BYTES))
        worker = Worker(
            topic,
            pipeline,
            registry,
            Offsets(app),
            Checkpoints(settings, producer, pipeline),
            Outbox(settings, producer, await topics.largest_bytes(settings, topics.DEAD_LETTERS)),
            push,
            metrics,
            seeding(ground.known, ground.partitions[topic]),
            emits_panes=settings.emit_panes,
        )
        _connect(app, worker, topic, settings, partial(_prepare, settings, producer))
        metrics_registry.register(
            PartitionGauges(lambda: worker.views, time.time, time.monotonic, lambda: registry.age_s)
        )
        health.reads(worker)
        if started:
            started(worker, ground.http_port)
        async with _background(push.run(), stop), _background(_watch_topics(settings, ground.partitions), stop):
            await run(app, stop)


def _needed(settings: Settings) -> list[topics.Topic]:
    """The topics that a worker reads and writes."""
    panes = [topics.PANES] if settings.emit_panes else []
    registry = [] if settings.registry_dir else list(TOPIC_OF.values())
    return [topics.SUBMIT, topics.ALERTS, topics.COMMANDS, topics.DEAD_LETTERS, topics.STATE, *panes, *registry]


async def _watch_topics(settings: Settings, before: Mapping[str, int]) -> None:
    """End the worker when a topic is deleted, or submits get partitions that the state topic has not.

    What was sent to a topic that is gone would be waited for without end and without a word, and so would be the next
    checkpoint. `before`: partitions by name at the start.
    """
    while True:
        await asyncio.sleep(TOPICS_S)
        with suppress(KafkaError):  # away, as the others notice too
            topics.refuse_shrunk(before, await topics.require(settings, _needed(settings)))


async def _prepare(settings: Settings, producer: AIOKafkaProducer, partitions: set[int]) -> None:
    """Before partitions are taken over: those that submits got since the start need one of the state topic each."""
    state = topics.STATE.with_prefix(settings.topic_prefix).name
    if not partitions <= await producer.partitions_for(state):
        await topics.require(settings, _needed(settings))
        await producer.client.force_metadata_update()  # they are there, but the producer has not heard of them


def _connect(
    app: BatchApp, worker: Worker, topic: str, settings: Settings, prepare: Callable[[set[int]], Awaitable[None]]
) -> None:
    """Hang the worker into the life of the Faust app."""

    async def counting(stream: Any) -> None:  # noqa: ANN401 - Faust's stream of batches
        await worker.batches(stream)

    async def taking_over(*_: object, **__: object) -> None:
        ours = {tp.partition for tp in app.consumer.assignment() if tp.topic == topic}
        await prepare(ours)
        await worker.assign(ours)

    async def giving_up(*_: object, **__: object) -> None:
        await worker.release()

    app.agent(app.batches(topic), name="count")(counting)
    app.on_rebalance_complete.connect(taking_over, weak=False)
    app.on_partitions_revoked.connect(giving_up, weak=False)
    app.on_before_shutdown.connect(giving_up, weak=False)
    app.timer(settings.checkpoint_interval_s, name="checkpoint")(worker.checkpoint)
    app.timer(TICK_S, name="tick")(worker.tick)


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> AsyncIterator[None]:
    """Endless work beside the block. Should it fail, `stop` is set and the error raised when the block has ended."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
