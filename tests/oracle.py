"""What one unbroken run over a topic says: the measure for workers that were killed, restarted and rebalanced."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord

from detectors.pipeline import Outcome, PartitionState, Pipeline
from detectors.registry import Registry
from streams import topics
from streams.contract import Reject
from streams.records import encode, port_counts
from streams.registry import load_folder
from streams.settings import Settings
from streams.state_file import history, seeding
from streams.worker.codec import decode
from tests.running import records


@dataclass(slots=True)
class Said:
    """Pane counts by (port, start), alerts apart from when they were noticed, ids of commands."""

    panes: dict[Any, Any] = field(default_factory=dict)
    alerts: set[bytes] = field(default_factory=set)
    commands: set[str] = field(default_factory=set)


async def uninterrupted(settings: Settings, registry_folder: Path) -> Said:
    """What one step over each partition of the topic of submits says."""
    pipeline, registry = Pipeline(), load_folder(registry_folder)
    seed = seeding(history(settings.state_in), settings.partitions)
    rows: defaultdict[int, list[Any]] = defaultdict(list)
    for row in await records(settings, topics.SUBMIT):
        rows[row.partition].append(row)
    said = Said()
    for partition, submits in rows.items():
        state = pipeline.start(settings.topic_prefix + topics.SUBMIT.name, partition)
        seed(state, partition)
        outcome, _ = step(pipeline, state, submits, registry)
        said.panes |= {
            (c["access_port"], c["start_ms"]): c for pane in outcome.panes for c in port_counts(pane, amends=False)
        }
        said.alerts |= {undated(encode(alert)) for alert in outcome.alerts}
        said.commands |= {command.command_id for command in outcome.commands}
        assert state.tally.difference == 0
    return said


def step(
    pipeline: Pipeline, state: PartitionState, rows: Sequence[ConsumerRecord], registry: Registry
) -> tuple[Outcome, list[Reject]]:
    """Decode the next records of a partition and take them, as a worker does."""
    decoded = decode(
        [row.value for row in rows],
        np.array([row.offset for row in rows], np.int64),
        np.array([row.timestamp for row in rows], np.int64),
    )
    reasons = Counter(str(reject.reason) for reject in decoded.rejects)
    return pipeline.step(state, decoded.batch, registry, reasons), decoded.rejects


async def heard(settings: Settings) -> tuple[Said, Counter[str]]:
    """What the workers of the settings said on their topics, and how much of it more than once."""
    said, repeats = Said(), Counter[str]()
    for row in await records(settings, topics.PANES):
        count = json.loads(row.value)
        if not count["amends"]:
            key = (count["access_port"], count["start_ms"])
            repeats["panes"] += key in said.panes
            assert said.panes.setdefault(key, count) == count  # who repeats himself says the same
    for row in await records(settings, topics.ALERTS):
        alert = undated(row.value)
        repeats["alerts"] += alert in said.alerts
        said.alerts.add(alert)
    for row in await records(settings, topics.COMMANDS):
        command = json.loads(row.value)["command_id"]
        repeats["commands"] += command in said.commands
        said.commands.add(command)
    return said, +repeats


def undated(alert: bytes) -> bytes:
    """An alert on the wire without the times at which it was noticed: equal for whoever says the same."""
    value = json.loads(alert)
    value["detected_ms"] = value["detected_event_ms"] = None
    return json.dumps(value, sort_keys=True).encode()
