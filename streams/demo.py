"""A simulated festival morning through the real thing: embedded broker, topics, registry, worker, alerts on Kafka.

What is shown is read where anybody else would read it: alerts and commands from their topics, counts from the worker.
"""

import asyncio
import logging
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.live import Live
from rich.text import Text

from detectors.registry import Registry
from streams import topics
from streams.embedded import EmbeddedBroker
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import feed
from streams.kafka import consumer_client
from streams.learn import learn_files
from streams.noc.screen import Picture, counted, drawn, figures, line, plain
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings, load_settings
from streams.simulate import simulate, write
from streams.simulate.score import Caught, score
from streams.worker.service import serve
from streams.worker.worker import Worker

SCENARIO, SPEED = "festival-morning", 600.0
SHORT_SCENARIO, SHORT_SPEED = "festival-hour", 600.0
PARTITIONS = 4
REFRESH_S = 0.25
POLL_MS, FAREWELL_MS = 200, 1_000
PLAIN_EVERY_S = 5.0
CATCH_UP_S = 60.0
"""How long after the last submit was sent the worker may take to have read it."""


@dataclass(slots=True)
class Show:
    """What the demo has heard so far."""

    console: Console
    picture: Picture
    alerts: list[dict[str, Any]] = field(default_factory=list)

    def hear(self, topic: str, record: dict[str, Any]) -> None:
        if topic.endswith(topics.COMMANDS.name):
            self.picture.commands.append(record)
            return
        self.alerts.append(record)
        self.picture.hear(record)
        if not self.console.is_terminal:
            self.console.print(Text(line(record)), soft_wrap=True)

    def see(self, worker: Worker, elapsed_s: float) -> None:
        """Take the counts of the worker over into the picture."""
        views = worker.views.values()
        before = self.picture.counts["counted"]
        counts, rejected = Counter[str](), Counter[str]()
        for view in views:
            counts.update({name: getattr(view.tally, name) for name in ("counted", "late", "misclocked", "duplicate")})
            rejected.update(view.tally.rejected)
        self.picture.counts, self.picture.rejected = counts, rejected
        self.picture.clock_ms = max((view.clock_ms for view in views), default=0)
        self.picture.lag = sum(view.lag for view in views)
        if elapsed_s > 0:
            self.picture.submits_per_s = (counts["counted"] - before) / elapsed_s


def demo(*, short: bool, speed: float, seed: int) -> bool:
    """Play the demo on this terminal, or as plain lines where there is none. False if it was interrupted.

    `speed`: event seconds per real second.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it says of the embedded broker's ways is no news
    console = Console(highlight=False)
    scenario = SHORT_SCENARIO if short else SCENARIO
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portwatch-demo-")))
        say = _steps(console, 4)
        say(f"drawing a simulated {scenario} (seed {seed})")
        simulation = simulate(scenario, seed)
        write(simulation, folder)
        registry = load_folder(folder / "registry")
        say(f"learning 21 days of counts of {len(registry.ports)} ports")
        learn_files([folder / "history.jsonl"], registry, folder / "state")
        broker = stack.enter_context(EmbeddedBroker())
        say(f"embedded broker at {broker.bootstrap}: creating topics, loading {len(registry.filings)} filings")
        settings = load_settings(
            bootstrap_servers=(broker.bootstrap,),
            partitions=PARTITIONS,
            registry_dir=None,
            state_in=folder / "state",
            http_port=0,
            throttle_max_share=1.0,  # of sixty ports, a flooded one has most of the traffic
            group_id="portwatch-demo",
            topic_prefix="",
        )
        show = Show(console, Picture(f"portwatch demo: {scenario}, {speed:g} times real speed"))
        say(f"playing it at {speed:g} times real speed through a worker; Ctrl-C ends it")
        whole = asyncio.run(_play(show, settings, registry, folder / "submits.jsonl", speed))
    _summarise(show, simulation.labels, whole=whole)
    return whole


def _steps(console: Console, total: int) -> Callable[[str], None]:
    numbers = iter(range(1, total + 1))
    return lambda text: console.print(f"{next(numbers)}/{total} {text}", style="dim")


async def _play(show: Show, settings: Settings, registry: Registry, submits: Path, speed: float) -> bool:
    await topics.create(settings)
    await publish(registry, settings)
    stop = asyncio.Event()
    with _signals(stop):
        async with _listening(settings, show) as listener:
            async with _working(settings) as (worker, serving):
                feeding = asyncio.create_task(feed(SubmitLines(), submits, settings, speed=speed, stop=stop))
                with _screen(show) as refresh:
                    await _watch(show, worker, serving, feeding, refresh)
                sent = (await feeding).sent
            await listener.finish()
    return not stop.is_set() and sent == show.picture.counts.total() + show.picture.rejected.total()


async def _watch(
    show: Show, worker: Worker, serving: asyncio.Task[None], feeding: asyncio.Task[Any], refresh: Callable[[], None]
) -> None:
    """Refresh the picture until all that was sent is counted."""
    looked_s, sent_all_s = monotonic(), None
    while not serving.done():
        await asyncio.sleep(REFRESH_S)
        now_s = monotonic()
        show.see(worker, now_s - looked_s)
        refresh()
        looked_s = now_s
        if feeding.done():
            sent_all_s = sent_all_s or now_s
            accounted = show.picture.counts.total() + show.picture.rejected.total()
            if accounted >= feeding.result().sent or now_s - sent_all_s > CATCH_UP_S:
                return


@asynccontextmanager
async def _working(settings: Settings) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker that owns its partitions, and its life; it ends in order, with a last checkpoint."""
    stop, started = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def assigned() -> None:
        worker: Worker = await started
        await worker.is_assigned.wait()

    serving = asyncio.create_task(serve(settings, stop, lambda worker, _: started.set_result(worker)))
    waiting = asyncio.create_task(assigned())
    await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if serving.done():
            serving.result()
        yield await started, serving
    finally:
        stop.set()
        await serving


class _Listener:
    """Reads alerts and commands off their topics until it is told to finish."""

    def __init__(self, consumer: AIOKafkaConsumer, hear: Callable[[str, dict[str, Any]], None]) -> None:
        self._consumer = consumer
        self._hear = hear
        self._listening = asyncio.create_task(self._listen())

    async def finish(self) -> None:
        """Stop listening, and read on until nothing more comes (the embedded broker does not know its end)."""
        await self.stop()
        while await self._poll(FAREWELL_MS):
            pass

    async def stop(self) -> None:
        self._listening.cancel()
        with suppress(asyncio.CancelledError):
            await self._listening

    async def _listen(self) -> None:
        while True:
            await self._poll(POLL_MS)

    async def _poll(self, timeout_ms: int) -> bool:
        polled = await self._consumer.getmany(timeout_ms=timeout_ms)
        for tp, records in polled.items():
            for record in records:
                self._hear(tp.topic, orjson.loads(record.value))
        return bool(polled)


@asynccontextmanager
async def _listening(settings: Settings, show: Show) -> AsyncIterator[_Listener]:
    outputs = [topics.ALERTS.name, topics.COMMANDS.name]
    async with consumer_client(settings) as consumer:
        consumer.assign([TopicPartition(name, partition) for name in outputs for partition in range(PARTITIONS)])
        listener = _Listener(consumer, show.hear)
        try:
            yield listener
        finally:
            await listener.stop()


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C ends the demo in order."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def _screen(show: Show) -> Iterator[Callable[[], None]]:
    """A live screen on a terminal, else a line of figures now and then."""
    if show.console.is_terminal:
        with Live(console=show.console, screen=False, auto_refresh=False, transient=True) as live:
            yield lambda: live.update(drawn(show.picture), refresh=True)
        return
    told_s = monotonic()

    def tell() -> None:
        nonlocal told_s
        if monotonic() - told_s >= PLAIN_EVERY_S:
            told_s = monotonic()
            show.console.print(figures(show.picture), soft_wrap=True)

    yield tell


def _summarise(show: Show, labels: list[dict[str, Any]], *, whole: bool) -> None:
    console, result = show.console, score(labels, show.alerts)
    if not whole:
        console.print("interrupted: what follows covers a part of the morning", style="yellow")
    found = sum(caught.alert is not None for caught in result.caught)
    console.print(f"\n{found} of {len(result.caught)} injected incidents caught", style="bold")
    for caught in result.caught:
        console.print(_told(caught), soft_wrap=True)
    console.print(f"alerted in error: {len(result.in_error) or 'nothing'}")
    for alert in result.in_error:
        console.print(Text("  " + line(alert)), soft_wrap=True)
    console.print(f"counted {show.picture.counts['counted']:,} submits")
    console.print(f"not counted: {counted(show.picture.counts, without='counted')}")
    console.print(f"rejected to the dead letter topic: {counted(show.picture.rejected)}")
    proposed = Counter(str(command["action"]) for command in show.picture.commands)
    console.print(f"throttle commands proposed (dry run): {counted(proposed)}")


def _told(caught: Caught) -> Text:
    """What became of an incident, on one line and a second one for the evidence."""
    alert, note = caught.alert, f"{caught.incident['incident']}: {caught.incident['note']}"
    if alert is None or caught.delay_s is None:
        return Text(f"  MISSED  {note}", style="bold red")
    minutes, seconds = divmod(round(caught.delay_s), 60)
    return Text.assemble(
        ("  caught  ", "bold green"),
        f"{note}\n          {alert['rule']} ({alert['severity']}) after {minutes} min {seconds:02} s of event time\n",
        (f"          {plain(alert['summary']['en'])}", "dim"),
    )
