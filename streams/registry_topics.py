"""The registry on Kafka: `publish` puts a folder's rows on four compacted topics, `RegistryFollower` keeps a snapshot.

A record holds all rows of one key, its whole history, as a JSON array (or its only row as an object): compaction keeps
the last record of a key, so rows of their own would eat each other. `publish` frames a load by two marks on every
topic; between them, and after a load that broke off, followers keep what they have. A source that changes rows one at
a time needs no marks.
"""

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType
from typing import Any, Self

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from detectors.registry import Campaign, Enterprise, Filing, PortLease, Registry
from streams import topics
from streams.kafka import POLL_MS, admin_client, consumer_client, producer_client, records_to_end
from streams.registry import FILES, RegistryError, Row, RowError, build, overlaps, parse_row, wire_row
from streams.settings import Settings

TOPIC_OF = {
    "ports": topics.PORTS,
    "signatures": topics.SIGNATURES,
    "enterprises": topics.ENTERPRISES,
    "campaigns": topics.CAMPAIGNS,
}
MARK_KEY = b"$load"
"""Key of the marks; no port, id or filing looks like it."""
POLL_RECORDS = 2_000  # a few tens of milliseconds of parsing between two turns of the event loop
LONGEST_UNSWAPPED_S = 5.0
RETRY_S = 1.0
_BEGUN, _DONE = "begun", "done"

log = logging.getLogger(__name__)


def record_key(row: Row) -> str:
    """The Kafka key of a row, as the table of topics has it."""
    match row:
        case PortLease():
            return row.access_port
        case Filing():
            return f"{row.access_port}{row.extension or ''} {row.signature}"
        case Enterprise():
            return row.enterprise_id
        case Campaign():
            return row.access_port or row.lessee_id or ""


async def publish(registry: Registry, settings: Settings) -> Counter[str]:
    """Make the topics hold exactly this registry: changed keys are sent, vanished ones deleted.

    Returns how many records were `sent`, `deleted` and `unchanged`. Raises the broker's `KafkaError`; the load has then
    broken off, followers keep what they had, and the same call repairs it. Raises `RegistryError` for missing topics.
    """
    names = await _topic_names(settings)
    held = await _held(settings, names)
    done: Counter[str] = Counter()
    async with producer_client(settings) as producer:

        async def mark_all(state: str) -> None:
            value = msgspec.json.encode({"state": state, "version": registry.version})
            await asyncio.gather(*[producer.send_and_wait(name, value, key=MARK_KEY) for name in names])

        await mark_all(_BEGUN)
        waiting: list[asyncio.Future[Any]] = []
        for name, wanted in zip(names, _records(registry), strict=True):
            for key, value in _changes(held[name], wanted).items():
                waiting.append(await producer.send(name, value, key=key))
                done["deleted" if value is None else "sent"] += 1
            done["unchanged"] += sum(held[name].get(key) == value for key, value in wanted.items())
        await asyncio.gather(*waiting)
        await mark_all(_DONE)
    return +done


async def load_topics(settings: Settings, timeout_s: float) -> Registry:
    """What the topics hold. Raises `RegistryError` when a load is under way or has broken off."""
    async with RegistryFollower(settings) as follower:
        try:
            async with asyncio.timeout(timeout_s):
                await follower.loaded()
        except TimeoutError:
            raise RegistryError([f"registry topics: not whole after {timeout_s:g} s ({follower.state})"]) from None
        return follower.registry


@dataclass(slots=True)
class _Kind:
    """What one topic has told so far: rows by key, and where its last load stands."""

    row: type[Row]
    rows: dict[bytes, list[Row]] = field(default_factory=dict)
    mark: Mapping[str, str] = field(default_factory=dict)
    bad_keys: set[bytes] = field(default_factory=set)

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Raises `RowError` for a record that can't be used; the rows of its key stay as they were."""
        if key == MARK_KEY:
            self.mark = _decode(value or b"{}", dict[str, str])
            return
        self.bad_keys.add(key)
        rows = [] if value is None else self._parse(value)
        self.bad_keys.discard(key)
        if rows:
            self.rows[key] = rows
        else:
            self.rows.pop(key, None)

    def _parse(self, value: bytes) -> list[Row]:
        wire = _decode(value, list[dict[str, Any]] | dict[str, Any])
        rows = [parse_row(self.row, each) for each in (wire if isinstance(wire, list) else [wire])]
        for _, overlap in overlaps(rows):
            raise overlap
        return rows

    def all_rows(self) -> Sequence[Any]:
        return list(chain.from_iterable(self.rows.values()))


class RegistryFollower:
    """Follows the registry topics with a consumer of its own; `registry` is always a whole load, never half of one.

    Use as an async context manager. A record that can't be used is logged by its place and leaves the rows of its key
    as they were; `bad_keys` counts the keys whose last record is such a one.
    """

    def __init__(self, settings: Settings) -> None:
        self.registry = Registry()
        self._settings = settings
        self._kinds: dict[str, _Kind] = {}
        self._loaded, self._published = asyncio.Event(), asyncio.Event()
        self._changed_s: float | None = None  # when the oldest change came that the snapshot lacks
        self._current_s = time.monotonic()
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        names = await _topic_names(self._settings)
        self._kinds = {name: _Kind(row) for name, row in zip(names, FILES.values(), strict=True)}
        consumer = await self._stack.enter_async_context(consumer_client(self._settings))
        consumer.assign([TopicPartition(name, 0) for name in names])
        self._task = asyncio.create_task(self._follow(consumer), name="registry follower")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._stack.aclose()

    async def loaded(self) -> None:
        """Return once the first whole registry is there. An empty one counts, if nothing was ever published."""
        await self._loaded.wait()

    async def published(self) -> None:
        """Return once the first whole registry is there that somebody has published, and be it one without rows."""
        await self._published.wait()

    @property
    def is_loaded(self) -> bool:
        return self._loaded.is_set()

    @property
    def is_published(self) -> bool:
        return self._published.is_set()

    @property
    def age_s(self) -> float:
        """Time since `registry` was last known to be all that the topics hold."""
        return time.monotonic() - self._current_s

    @property
    def bad_keys(self) -> int:
        return sum(len(kind.bad_keys) for kind in self._kinds.values())

    @property
    def state(self) -> str:
        """For people: loaded, reading, or what is wrong with the last load."""
        if self._is_whole():
            if self.is_loaded and not self.is_published:
                return "its topics are empty: run `portwatch registry load DIR`"
            return "loaded" if self.is_loaded else "reading"
        return "a load is under way or broke off: run `portwatch registry load DIR`"

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                await self._turn(consumer)
            except KafkaError as error:
                log.warning("registry topics: %s; trying again", error)
                await asyncio.sleep(RETRY_S)

    async def _turn(self, consumer: AIOKafkaConsumer) -> None:
        batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        for record in chain.from_iterable(batches.values()):
            self._apply(record.topic, record.offset, record.key or b"", record.value)
        is_at_end = not batches and await _is_at_end(consumer)
        is_due = (
            self.is_loaded and self._changed_s is not None and time.monotonic() - self._changed_s > LONGEST_UNSWAPPED_S
        )
        if (is_at_end or is_due) and self._is_whole():
            await self._swap()
            if is_at_end:
                self._current_s = time.monotonic()
                self._loaded.set()
                if any(kind.rows or kind.mark for kind in self._kinds.values()):
                    self._published.set()

    def _apply(self, topic: str, offset: int, key: bytes, value: bytes | None) -> None:
        try:
            self._kinds[topic].apply(key, value)
        except RowError as error:
            log.warning("%s offset %d: %s", topic, offset, error)
        self._changed_s = self._changed_s or time.monotonic()

    def _is_whole(self) -> bool:
        """No topic is inside a load, and all hold the same one."""
        marks = [kind.mark for kind in self._kinds.values()]
        return all(mark == marks[0] for mark in marks) and marks[0].get("state") != _BEGUN

    async def _swap(self) -> None:
        if self._changed_s is None:
            return
        self._changed_s = None
        self.registry = await asyncio.to_thread(_snapshot, *[kind.all_rows() for kind in self._kinds.values()])


def _decode(value: bytes, kind: Any) -> Any:  # noqa: ANN401 - what `kind` says
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RowError("value", value, f"must be a row or a list of them ({error})") from None


def _snapshot(
    ports: Sequence[PortLease],
    filings: Sequence[Filing],
    enterprises: Sequence[Enterprise],
    campaigns: Sequence[Campaign],
) -> Registry:
    registry = build(ports, filings, enterprises, campaigns)
    # Its indices are made at first use, seconds for a million filings: here, not in the loop that counts submits.
    registry.lease("", 0)
    registry.filings_of_port("", 0)
    registry.filings_of_signature("", 0)
    registry.enterprise("")
    return registry


def _records(registry: Registry) -> list[dict[bytes, bytes]]:
    """Key -> value of all records, in the order of `TOPIC_OF`."""
    encode = msgspec.json.Encoder().encode
    found = []
    for rows in (registry.ports, registry.filings, registry.enterprises, registry.campaigns):
        by_key: defaultdict[bytes, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            by_key[record_key(row).encode()].append(wire_row(row))
        found.append({key: encode(history) for key, history in by_key.items()})
    return found


def _changes(held: Mapping[bytes, bytes], wanted: Mapping[bytes, bytes]) -> dict[bytes, bytes | None]:
    changed: dict[bytes, bytes | None] = {key: value for key, value in wanted.items() if held.get(key) != value}
    return changed | dict.fromkeys(held.keys() - wanted.keys() - {MARK_KEY})


async def _held(settings: Settings, names: Sequence[str]) -> dict[str, dict[bytes, bytes]]:
    """By topic: key -> value of what the topics hold now."""
    held: dict[str, dict[bytes, bytes]] = {name: {} for name in names}
    async with consumer_client(settings) as consumer:
        consumer.assign([TopicPartition(name, 0) for name in names])
        async for record in records_to_end(consumer):
            if record.value is None:
                held[record.topic].pop(record.key, None)
            else:
                held[record.topic][record.key] = record.value
    return held


async def _is_at_end(consumer: AIOKafkaConsumer) -> bool:
    ends = await consumer.end_offsets(consumer.assignment())
    return all([await consumer.position(partition) >= end for partition, end in ends.items()])


async def _topic_names(settings: Settings) -> list[str]:
    """The registry topics' names. Raises `RegistryError` unless all exist, each with one partition."""
    async with admin_client(settings) as admin:
        found = await topics.partition_counts(admin)
    names = [topic.with_prefix(settings.topic_prefix).name for topic in TOPIC_OF.values()]
    wrong = [f"{name}: has {found.get(name, 0)} partitions, must be 1" for name in names if found.get(name) != 1]
    if wrong:
        raise RegistryError([*wrong, "see `portwatch topics check` and `portwatch topics create`"])
    return names
