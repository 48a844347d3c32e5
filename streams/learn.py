"""From a history of counts to a state file: how a carrier's warehouse spares a new installation its blind first day."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from detectors.groups import Groups
from detectors.pipeline import Pipeline
from detectors.registry import Registry
from detectors.volume.detector import VolumeDetector
from detectors.volume.ports import TICK_MS, learn
from streams.contract import EARLIEST_MS, LATEST_MS
from streams.state_file import save


class Count(msgspec.Struct):
    """A line of a history: the submits of a port in a slice of time. Records of sms.panes.v1 are such lines too."""

    access_port: Annotated[str, Meta(pattern="^([0-9]{3,20})?$")]  # "" is what found no room in a worker's table
    start_ms: Annotated[int, Meta(ge=EARLIEST_MS, le=LATEST_MS)]
    submits: Annotated[int, Meta(ge=0, le=1_000_000_000)]


class HistoryError(Exception):
    """A history that can't be learnt from; the text names file, line and what is wrong."""


def learn_files(files: Iterable[Path], registry: Registry, out: Path) -> int:
    """Learn the baselines of all ports in the files and write a state file; returns the number of ports.

    Counts are added up per port and five minutes. Raises `HistoryError`.
    """
    decode = msgspec.json.Decoder(Count).decode
    sums: dict[tuple[str, int], int] = {}
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    count = decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    raise HistoryError(f"{file}:{number}: {error}") from error
                if not count.access_port:
                    continue
                key = (count.access_port, count.start_ms // TICK_MS * TICK_MS)
                sums[key] = sums.get(key, 0) + count.submits
    if not sums:
        raise HistoryError("there is no count in the history")
    pipeline = Pipeline()
    state = pipeline.start("history", 0)
    volume = VolumeDetector()
    ports = [port for port, _ in sums]
    starts = np.array([start for _, start in sums], np.int64)
    baselines = learn(ports, starts, np.fromiter(sums.values(), np.int64, len(sums)), registry)
    volume.seed(state.detectors[volume.name], Groups(), baselines)
    save(state, out)
    return len(baselines.ports)
