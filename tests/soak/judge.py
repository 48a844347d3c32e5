"""Was every submit counted once, and every alert told, whatever befell the workers? One unbroken pass over each
partition says what is right; what the workers left on their topics is held against it.

Partitions are independent, so each is judged in a process of its own, in memory that does not grow with the run. The
pass reads with a plain consumer, so that the worker's own way of reading is judged too.
"""

import asyncio
import json
import multiprocessing
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from aiokafka import ConsumerRecord, TopicPartition

from detectors.contract import Pane
from detectors.pipeline import Pipeline
from streams import topics
from streams.kafka import consumer_client
from streams.records import encode, port_counts
from streams.registry import load_folder
from streams.settings import Settings
from streams.state_file import history, seeding
from tests.oracle import step, undated
from tests.running import records

_EXAMPLES = 5


class Key(NamedTuple):
    """What identifies a count; a repeat has the same. `watermark_ms` is of late submits alone."""

    access_port: str
    start_ms: int
    watermark_ms: int | None


class Sums(NamedTuple):
    submits: int
    retries: int
    recipients: int
    segments: int

    @property
    def rows(self) -> int:
        return self.submits + self.retries


@dataclass(slots=True)
class Verdict:
    """`lost` and `double` are submits; `alerts` and `commands` are what the unbroken pass tells."""

    submits: int = 0
    lost: int = 0
    double: int = 0
    left_open: int = 0  # panes and alerts that the traffic did not bring to their end: nobody has told them yet
    examples: list[str] = field(default_factory=list)  # of what is lost or double
    alerts: set[bytes] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)
    heard_alerts: set[bytes] = field(default_factory=set)
    heard_commands: set[str] = field(default_factory=set)

    def compare(self, key: Key, right: Sums | None, told: AbstractSet[Sums]) -> None:
        """Take one count into account: `right` is what was there to be told (None: nothing), `told` what was.

        Whoever tells a count twice and differently is wrong by each that is not right.
        """
        rows = right.rows if right else 0
        if right and not told:
            self.lost += rows
            self._note(f"{key}: {right} was not told")
        for sums in told - {right}:
            is_mixed_up = sums.rows == rows  # as many, but not these
            self.lost += rows if is_mixed_up else max(0, rows - sums.rows)
            self.double += rows if is_mixed_up else max(0, sums.rows - rows)
            self._note(f"{key}: {sums} was told, {right} is right")

    def letters(self, right: AbstractSet[int], told: AbstractSet[int]) -> None:
        """The same for offsets of submits that were to be turned away, and were."""
        self.lost += len(right - told)
        self.double += len(told - right)
        for offset in right ^ told:
            self._note(f"dead letter of offset {offset}: {'missing' if offset in right else 'extra'}")

    def _note(self, example: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(example)

    def add(self, other: "Verdict") -> None:
        self.submits += other.submits
        self.lost += other.lost
        self.double += other.double
        self.left_open += other.left_open
        self.examples = (self.examples + other.examples)[:_EXAMPLES]
        self.alerts |= other.alerts
        self.commands |= other.commands


async def judge(settings: Settings, until_ms: int, say: Callable[[str], None] = lambda _: None) -> Verdict:
    """The verdict over all partitions, of panes before `until_ms`, for workers that had these settings."""
    whole = Verdict()
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        loop = asyncio.get_running_loop()
        parts = [
            loop.run_in_executor(pool, _partition, settings, partition, until_ms)
            for partition in range(settings.partitions)
        ]
        for number, part in enumerate(asyncio.as_completed(parts), 1):
            whole.add(await part)
            say(f"judged {number} of {len(parts)} partitions: {whole.submits:,} submits")
    whole.heard_alerts = {undated(row.value) for row in await records(settings, topics.ALERTS)}
    whole.heard_commands = {json.loads(row.value)["command_id"] for row in await records(settings, topics.COMMANDS)}
    return whole


def _partition(settings: Settings, partition: int, until_ms: int) -> Verdict:
    return asyncio.run(_judged(settings, partition, until_ms))


async def _judged(settings: Settings, partition: int, until_ms: int) -> Verdict:
    told = await _told(settings, partition, until_ms)
    refused: set[int] = set()
    assert settings.registry_dir
    verdict, pipeline, registry = Verdict(), Pipeline(), load_folder(settings.registry_dir)
    state = pipeline.start(settings.topic_prefix + topics.SUBMIT.name, partition)
    seeding(history(settings.state_in), settings.partitions)(state, partition)
    async for rows in _fetches(settings, topics.SUBMIT, partition):
        outcome, rejects = step(pipeline, state, rows, registry)
        for key, right in (*_sums(outcome.panes, amends=False), *_sums(outcome.amendments, amends=True)):
            verdict.compare(key, right, told.pop(key, set()))
        refused |= {reject.offset for reject in rejects}
        verdict.alerts |= {undated(encode(alert)) for alert in outcome.alerts}
        verdict.commands |= {command.command_id for command in outcome.commands}
    verdict.letters(refused, await _letters(settings, partition))
    for key, invented in told.items():
        verdict.compare(key, None, invented)
    verdict.left_open = len(state.episodes.open) + sum(start_ms < until_ms for start_ms in state.open.counts)
    verdict.submits = state.tally.submits_in
    return verdict


def _sums(panes: Iterable[Pane], *, amends: bool) -> Iterable[tuple[Key, Sums]]:
    return (_count(record) for pane in panes for record in port_counts(pane, amends=amends))


def _count(record: Mapping[str, Any]) -> tuple[Key, Sums]:
    return Key(*(record[name] for name in Key._fields)), Sums(*(record[name] for name in Sums._fields))


async def _told(settings: Settings, partition: int, until_ms: int) -> dict[Key, set[Sums]]:
    """What the workers said of each count. Ports keep their partition on this topic."""
    told: defaultdict[Key, set[Sums]] = defaultdict(set)
    async for rows in _fetches(settings, topics.PANES, partition):
        for key, sums in (_count(json.loads(row.value)) for row in rows):
            if key.start_ms < until_ms:
                told[key].add(sums)
    return dict(told)


async def _letters(settings: Settings, partition: int) -> set[int]:
    """Offsets of the submits that the workers turned away. Keys keep their partition here too."""
    return {
        int(dict(row.headers)["dlq.original.offset"])
        async for rows in _fetches(settings, topics.DEAD_LETTERS, partition)
        for row in rows
    }


async def _fetches(settings: Settings, topic: topics.Topic, partition: int) -> AsyncIterator[list[ConsumerRecord]]:
    """All records of a partition, fetch by fetch."""
    tp = TopicPartition(settings.topic_prefix + topic.name, partition)
    async with consumer_client(settings) as consumer:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            for rows in (await consumer.getmany(tp, timeout_ms=1_000)).values():
                yield rows
