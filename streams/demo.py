"""A simulated festival morning through the real thing: embedded broker, topics, registry, worker, alerts on Kafka.

What is shown is read where anybody else would read it: alerts and commands from their topics, counts from the worker.
"""

import asyncio
import logging
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from detectors.registry import Registry
from streams import topics
from streams.embedded import EmbeddedBroker
from streams.feeds.jsonl import SubmitLines
from streams.feeds.producer import Summary, feed
from streams.kafka import consumer_client
from streams.learn import learn_files
from streams.noc.screen import Picture, clock, counted, drawn, figures, line, plain, where
from streams.registry import load_folder
from streams.registry_topics import publish
from streams.settings import Settings, load_settings
from streams.simulate import Simulation, simulate, write
from streams.simulate.score import Caught, score
from streams.worker.service import serve
from streams.worker.worker import Worker

SCENARIO, SHORT_SCENARIO = "festival-morning", "festival-hour"
STEPS = 5
PARTITIONS = 4
REFRESH_S = 0.25
SMOOTHED_S = 1.0  # what the rate is averaged over, about
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
    sent: int = 0
    steps: int = 0

    @property
    def accounted(self) -> int:
        """Submits that the worker has counted, for whatever they are."""
        return self.picture.counts.total() + self.picture.rejected.total()

    def say(self, text: Text, indent: int = 0) -> None:
        """A line; on a terminal it is broken between words and goes on under its beginning."""
        if self.console.is_terminal:
            self.console.print(Padding(text, (0, 0, 0, indent)))
        else:
            self.console.print(Text(" " * indent) + text, soft_wrap=True)

    def step(self, text: str) -> None:
        self.steps += 1
        self.say(Text(f"{self.steps}/{STEPS} {text}", style="dim"))

    def hear(self, topic: str, record: dict[str, Any]) -> None:
        if topic.endswith(topics.COMMANDS.name):
            self.picture.commands.append(record)
            return
        self.alerts.append(record)
        self.picture.hear(record)
        if not self.console.is_terminal:
            self.say(Text(line(record)))

    def see(self, worker: Worker, elapsed_s: float) -> None:
        """Take the counts of the worker over into the picture."""
        views = worker.views.values()
        before = self.picture.counts["counted"]
        counts, rejected = Counter[str](), Counter[str]()
        for view in views:
            counts.update({name: getattr(view.tally, name) for name in ("counted", "late", "misclocked", "duplicate")})
            rejected.update(view.tally.rejected)
        self.picture.counts, self.picture.rejected = counts, rejected
        self.picture.clock_ms = max([self.picture.clock_ms, *(view.clock_ms for view in views)])
        self.picture.lag = sum(view.lag for view in views)
        if elapsed_s > 0:
            now_per_s = (counts["counted"] - before) / elapsed_s
            self.picture.submits_per_s += (now_per_s - self.picture.submits_per_s) * min(1.0, elapsed_s / SMOOTHED_S)


def demo(*, short: bool, speed: float, seed: int) -> bool:
    """Play the demo on this terminal, or as plain lines where there is none. False if it was interrupted.

    `speed`: event seconds per real second.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it says of the embedded broker's ways is no news
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends us as Ctrl-C does, with nothing left behind
    scenario = SHORT_SCENARIO if short else SCENARIO
    simulation = simulate(scenario, seed)
    hours = f"{clock(simulation.start_ms):.5} to {clock(simulation.end_ms):.5}"
    show = Show(Console(highlight=False), Picture(f"playing {scenario}, {hours}, at {speed:g} times real speed"))
    try:
        with tempfile.TemporaryDirectory(prefix="portwatch-demo-") as folder, EmbeddedBroker() as broker:
            whole = _stage(show, simulation, Path(folder), broker, speed)
    except KeyboardInterrupt:
        whole = False
    _summarise(show, simulation.labels, whole=whole)
    return whole and show.accounted == show.sent


def _stage(show: Show, simulation: Simulation, folder: Path, broker: EmbeddedBroker, speed: float) -> bool:
    """Set the stage, and play. False if it was interrupted."""
    show.step(f"drawing a simulated {simulation.scenario} (seed {simulation.seed})")
    write(simulation, folder)
    registry = load_folder(folder / "registry")
    show.step(f"learning 21 days of counts of {len(registry.ports)} ports")
    learn_files([folder / "history.jsonl"], registry, folder / "state")
    settings = load_settings(
        bootstrap_servers=(broker.bootstrap,),
        security_protocol="PLAINTEXT",
        alertmanager_urls=(),  # a simulated flood must not page who has exported the settings of a real cluster
        partitions=PARTITIONS,
        registry_dir=None,
        state_in=folder / "state",
        http_port=0,
        throttle_max_share=1.0,  # of sixty ports, a flooded one has most of the traffic
        group_id="portwatch-demo",
        topic_prefix="",
    )
    return asyncio.run(_play(show, settings, registry, folder / "submits.jsonl", speed))


async def _play(show: Show, settings: Settings, registry: Registry, submits: Path, speed: float) -> bool:
    stop = asyncio.Event()
    with _signals(stop):
        show.step(f"embedded broker at {settings.bootstrap_servers[0]}: loading {len(registry.filings)} filings")
        await topics.create(settings)
        await publish(registry, settings)
        async with _listening(settings, show) as listener:
            show.step("a worker joins its group, in some seconds; Ctrl-C ends the demo at any time")
            async with _working(settings, stop) as (worker, serving):
                if stop.is_set():
                    show.say(Text("ending: the worker is still joining, and leaves in some seconds", style="dim"))
                    return False
                show.step(show.picture.title)
                feeding = asyncio.create_task(feed(SubmitLines(), submits, settings, speed=speed, stop=stop))
                with _screen(show) as refresh:
                    await _watch(show, worker, serving, feeding, stop, refresh)
                show.sent = (await feeding).sent
            await listener.finish()
    return not stop.is_set()


async def _watch(
    show: Show,
    worker: Worker,
    serving: asyncio.Task[None],
    feeding: asyncio.Task[Summary],
    stop: asyncio.Event,
    refresh: Callable[[], None],
) -> None:
    """Refresh the picture until all that was sent is accounted for, or `stop`."""
    looked_s, sent_all_s = monotonic(), None
    while not (serving.done() or stop.is_set()):
        await asyncio.sleep(REFRESH_S)
        now_s = monotonic()
        show.see(worker, now_s - looked_s)
        refresh()
        looked_s = now_s
        if feeding.done():
            sent_all_s = sent_all_s or now_s
            if show.accounted >= feeding.result().sent or now_s - sent_all_s > CATCH_UP_S:
                return


@asynccontextmanager
async def _working(settings: Settings, stop: asyncio.Event) -> AsyncIterator[tuple[Worker, asyncio.Task[None]]]:
    """A worker that owns its partitions (or not yet, at a `stop`); it ends in order, with a last checkpoint."""
    end, started = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def assigned() -> None:
        worker: Worker = await asyncio.shield(started)
        await worker.is_assigned.wait()

    serving = asyncio.create_task(serve(settings, end, lambda worker, _: started.set_result(worker)))
    others = [asyncio.create_task(assigned()), asyncio.create_task(stop.wait())]
    await asyncio.wait([serving, *others], return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    try:
        if serving.done():
            serving.result()
        yield await started, serving
    finally:
        end.set()
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
    """The first Ctrl-C ends the demo in order, a second one at once."""
    loop, numbers = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM)

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.default_int_handler)

    def stop_once() -> None:
        stop.set()
        restore()

    for number in numbers:
        loop.add_signal_handler(number, stop_once)
    try:
        yield
    finally:
        restore()


@contextmanager
def _screen(show: Show) -> Iterator[Callable[[], None]]:
    """A live screen on a terminal, else a line of figures now and then."""
    if show.console.is_terminal:
        with Live(console=show.console, screen=True, auto_refresh=False) as live:
            yield lambda: live.update(drawn(show.picture), refresh=True)
        return
    told_s = monotonic()

    def tell() -> None:
        nonlocal told_s
        if monotonic() - told_s >= PLAIN_EVERY_S:
            told_s = monotonic()
            show.say(Text(figures(show.picture)))

    yield tell


def _summarise(show: Show, labels: list[dict[str, Any]], *, whole: bool) -> None:
    picture, to_come = show.picture, 0
    if not picture.clock_ms:
        show.say(Text("interrupted before the first submit", style="yellow"))
        return
    if not whole:
        begun = [label for label in labels if "incident" in label and label["from_ms"] <= picture.clock_ms]
        to_come = sum("incident" in label for label in labels) - len(begun)
        labels = begun
        show.say(Text("interrupted: what follows covers a part of the morning", style="yellow"))
    result = score(labels, show.alerts)
    found = sum(caught.alert is not None for caught in result.caught)
    left = f", {to_come} were still to come" if to_come else ""
    show.say(Text(f"{found} of {len(result.caught)} injected incidents caught{left}", style="bold"))
    for caught in sorted(result.caught, key=lambda caught: float(caught.incident["from_ms"])):
        _tell(show, caught)
    show.say(Text(f"alerted in error: {len(result.in_error) or 'nothing'}"))
    for alert in result.in_error:
        show.say(Text(line(alert)), indent=2)
    show.say(Text(f"counted {picture.counts['counted']:,} submits"))
    show.say(Text(f"not counted: {counted(picture.counts, without='counted')}"))
    show.say(Text(f"rejected to the dead letter topic: {counted(picture.rejected)}"))
    proposed = Counter(str(command["action"]) for command in picture.commands)
    show.say(Text(f"throttle commands proposed (dry run): {counted(proposed)}"))
    if whole and show.accounted != show.sent:
        show.say(Text(f"LOST: {show.sent:,} were sent, {show.accounted:,} are accounted for", style="bold red"))


def _tell(show: Show, caught: Caught) -> None:
    """What became of an incident: what it was and when it was caught, by what, and the evidence at that moment."""
    alert, note = caught.alert, f"{caught.incident['incident']}: {caught.incident['note']}"
    if alert is None or caught.delay_s is None:
        show.say(Text(f"MISSED  {note}", style="bold red"), indent=2)
        return
    minutes, seconds = divmod(round(caught.delay_s), 60)
    delay = f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
    show.say(Text.assemble(("caught  ", "bold green"), note), indent=2)
    show.say(Text(f"after {delay} of event time: {alert['rule']} ({alert['severity']}) on {where(alert)}"), indent=10)
    show.say(Text(plain(alert["summary"]["en"]), style="dim"), indent=10)
