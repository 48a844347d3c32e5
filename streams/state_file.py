"""State and history in a file: what `replay --state-out` and `learn` write, and what a start without checkpoint reads.

A history in it is of ports, not of partitions, so it can start any number of workers.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from aiokafka.partitioner import murmur2

from detectors.pipeline import PartitionState, Pipeline
from detectors.volume.baseline import select
from detectors.volume.detector import VolumeDetector
from detectors.volume.ports import GRID, Baselines
from streams.worker.image import ImageError, pack, unpack


class StateFileError(Exception):
    """A file that holds no state that this portwatch can use; the text says why."""


def save(state: PartitionState, path: Path) -> None:
    """Write the file whole or not at all."""
    draft = path.with_name(path.name + ".part")
    draft.write_bytes(pack(state))
    draft.replace(path)


def load(path: Path, pipeline: Pipeline) -> PartitionState:
    """Read it again. Raises `StateFileError`."""
    try:
        return unpack([path.read_bytes()], pipeline)
    except (OSError, ImageError) as error:
        raise StateFileError(f"{path}: {error}") from error


def history(path: Path | None) -> Baselines | None:
    """What a state file knows of every port. Raises `StateFileError`."""
    if path is None:
        return None
    volume, learnt = VolumeDetector(), load(path, Pipeline())
    return volume.export(learnt.detectors[volume.name], learnt.groups)


def seeding(known: Baselines | None, partitions: int) -> Callable[[PartitionState, int], None]:
    """What fills the state of a partition that has no checkpoint: the history of its own ports."""
    if known is None:
        return lambda *_: None
    volume = VolumeDetector()
    home = np.array([partition_of(port, partitions) for port in known.ports], np.int64)

    def seed(state: PartitionState, partition: int) -> None:
        own = np.flatnonzero(home == partition)
        ports = [known.ports[row] for row in own.tolist()]
        share = Baselines(ports, select(known.history, own, GRID), known.classes)
        volume.seed(state.detectors[volume.name], state.groups, share)

    return seed


def partition_of(access_port: str, partitions: int) -> int:
    """Where the default partitioner of Kafka's clients puts this key."""
    hashed: int = murmur2(access_port.encode())
    return (hashed & 0x7FFFFFFF) % partitions
