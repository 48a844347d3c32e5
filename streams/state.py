"""The state topic for people: what is in it, is all of it sound, a copy to keep, and the way back from the copy.

Reads what the group's commits point to, so it sees what a restarted worker would see, and may run beside live workers;
only `restore` needs them stopped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata
from faust.types import TP
from rich import box
from rich.table import Table

from detectors.pipeline import PartitionState, Pipeline
from streams import topics
from streams.kafka import admin_client, committed, consumer_client, producer_client
from streams.settings import Settings
from streams.state_file import load, save
from streams.worker.checkpoint import CheckpointError, Checkpoints, Held, Pointer
from streams.worker.image import pack

SUFFIX = ".state"
IDLE_GROUP = frozenset({"Empty", "Dead"})


class StateError(Exception):
    """A state that can't be exported or restored as asked; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What the group's commit of one partition leads to: a checkpoint, or what is wrong. Neither: no checkpoint yet."""

    partition: int
    beginning: int  # of the topic of submits
    end: int
    held: Held | None = None
    wrong: str | None = None

    @property
    def verdict(self) -> str:
        return "WRONG" if self.wrong else "sound" if self.held else "none yet"


async def read(settings: Settings) -> list[Saved]:
    """Follow the pointer of every partition and read its checkpoint to the last byte."""
    name = topics.SUBMIT.with_prefix(settings.topic_prefix).name
    async with (
        consumer_client(settings, settings.group_id) as consumer,
        producer_client(settings) as producer,
    ):
        partitions = [TopicPartition(name, n) for n in range(await _partitions(settings, name))]
        beginnings, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        commits = await committed(consumer, partitions)
        checkpoints = Checkpoints(settings, producer, Pipeline())
        found = []
        for tp in partitions:
            commit = commits.get(tp)
            one = Saved(tp.partition, beginnings[tp], ends[tp])
            found.append(await _followed(checkpoints, one, name, commit) if commit and commit.metadata else one)
        return found


async def _followed(checkpoints: Checkpoints, one: Saved, topic: str, commit: OffsetAndMetadata) -> Saved:
    try:
        held = await checkpoints.follow(TP(topic, one.partition), commit.offset, commit.metadata)
    except CheckpointError as error:
        return Saved(one.partition, one.beginning, one.end, wrong=str(error))
    return Saved(one.partition, one.beginning, one.end, held, _wrong(held.state, one, commit.offset))


def _wrong(state: PartitionState, one: Saved, offset: int) -> str | None:
    if state.next_offset != offset:
        return f"the commit says {offset}, the state includes all below {state.next_offset}"
    if state.next_offset > one.end:
        return f"the state stands at {state.next_offset}, the topic of submits ends at {one.end}: was it made anew?"
    if state.next_offset < one.beginning:
        return f"Kafka has deleted offsets {state.next_offset}-{one.beginning - 1} uncounted"
    if state.tally.difference:
        return f"{state.tally.difference} submits are not accounted for"
    return None


def table(found: list[Saved], now_ms: int) -> Table:
    """A row for each partition."""
    shown = Table(title="state by partition", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("", "offset", "lag", "event time", "age", "MB", "ports", "alerts", "submits", "verdict"):
        shown.add_column(column, justify="right", no_wrap=True)
    for one in found:
        cells = _cells(one, one.held, now_ms) if one.held else [""] * 8
        shown.add_row(str(one.partition), *cells, one.verdict)
    return shown


def _cells(one: Saved, held: Held, now_ms: int) -> list[str]:
    state = held.state
    return [
        f"{state.next_offset:,}",
        f"{one.end - state.next_offset:,}",
        f"{datetime.fromtimestamp(state.clock_ms / 1_000, UTC):%m-%d %H:%M:%SZ}" if state.clock_ms else "",
        f"{(now_ms - held.written_ms) / 1_000:,.0f} s",
        f"{held.size_bytes / 1e6:.1f}",
        f"{len(state.groups.ports) - 1:,}",
        f"{len(state.episodes.open):,}",
        f"{state.tally.submits_in:,}",
    ]


def export(found: Iterable[Saved], folder: Path) -> list[Path]:
    """Write the state of each partition to a file of its own in a new or empty folder; returns the files.

    Raises `StateError` when a partition's state can't be read, or the folder holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder}: is not empty; an old file among new ones would be restored with them")
    saved = list(found)
    if broken := [f"partition {one.partition}: {one.wrong}" for one in saved if one.wrong and not one.held]:
        raise StateError("\n".join(broken))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for one in saved:
        if one.held:
            files.append(folder / f"partition-{one.partition:05d}{SUFFIX}")
            save(one.held.state, files[-1])
    return files


def exported(folder: Path) -> list[PartitionState]:
    """The states of a folder that `export` wrote. Raises `StateError`, or `StateFileError` for a file that is none."""
    files = sorted(folder.glob(f"partition-*{SUFFIX}"))
    if not files:
        raise StateError(f"{folder}: holds no partition-*{SUFFIX}; `portwatch state export` writes them")
    return [load(file, Pipeline()) for file in files]


async def restore(settings: Settings, states: Iterable[PartitionState]) -> Mapping[int, int]:
    """Make these states the ones that workers go on from; returns the offset of each partition.

    Other partitions keep what they have. Raises `StateError` while workers live, and for a state that the topic of
    submits does not fit; then nothing is restored.
    """
    name = topics.SUBMIT.with_prefix(settings.topic_prefix).name
    by_partition = {TopicPartition(name, state.episodes.partition): state for state in states}
    async with (
        consumer_client(settings, settings.group_id) as consumer,
        producer_client(settings) as producer,
    ):
        await _none_alive(settings)
        count = await _partitions(settings, name)
        if alien := [tp.partition for tp in by_partition if tp.partition >= count]:
            raise StateError(f"there is a state of partition {alien[0]}, but {name} has 0 to {count - 1}")
        ends = await consumer.end_offsets(list(by_partition))
        for tp, state in by_partition.items():
            if state.next_offset > ends[tp]:
                raise StateError(
                    f"the state of partition {tp.partition} stands at {state.next_offset}, but {name} ends at "
                    f"{ends[tp]}: it is of another topic, or that was made anew"
                )
        checkpoints = Checkpoints(settings, producer, Pipeline())
        pointers = {
            tp: Pointer(((await checkpoints.write(tp.partition, pack(state))).segment,))
            for tp, state in by_partition.items()
        }
        consumer.assign(list(by_partition))
        await consumer.commit(
            {tp: OffsetAndMetadata(state.next_offset, str(pointers[tp])) for tp, state in by_partition.items()}
        )
    return {tp.partition: state.next_offset for tp, state in by_partition.items()}


async def _none_alive(settings: Settings) -> None:
    async with admin_client(settings) as admin:
        [answer] = await admin.describe_consumer_groups([settings.group_id])
    _, _, state, *_ = answer.groups[0]
    if state not in IDLE_GROUP:
        raise StateError(
            f"group {settings.group_id} is alive ({state}): stop its workers, and wait until Kafka has missed them"
        )


async def _partitions(settings: Settings, name: str) -> int:
    async with admin_client(settings) as admin:
        count = (await topics.partition_counts(admin)).get(name, 0)
    if not count:
        raise StateError(f"no topic {name}: `portwatch topics create` makes it")
    return count
