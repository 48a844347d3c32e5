"""The pipeline from files, without a broker: yesterday again, a case from the shelf, a test.

The same `decode` and `step` as in the worker; the files are one partition, their lines its offsets.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import Progress

from detectors.batch import Flags, SubmitBatch, empty_batch
from detectors.contract import PANE_MS, AlertState
from detectors.pipeline import Outcome, PartitionState, Pipeline, Tally
from detectors.registry import Registry
from detectors.volume.detector import VolumeDetector, VolumeState
from detectors.volume.ports import GRID
from streams.contract import DeadLetter
from streams.records import encode
from streams.state_file import load, save
from streams.worker.codec import decode

CHUNK_BYTES = 1 << 20
LONGEST_KEPT = 16 << 20
"""Bytes of a line. A longer one is too large to be a submit anyway, and must not fill the memory."""

HISTORY_MS = 24 * 3_600_000

COLD = (
    "no volume alerts: neither the ports nor their classes have 24 h of history here; "
    "bring it with --state-in (portwatch learn, or --state-out of an earlier replay)"
)


class ReplayError(Exception):
    """Files that can't be used together; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Span:
    """Event times to replay: from_ms <= t < to_ms; None is an open end."""

    from_ms: int | None = None
    to_ms: int | None = None

    def marks(self, batch: SubmitBatch) -> Flags:
        """The rows inside."""
        inside = np.ones(len(batch), np.bool_)
        if self.from_ms is not None:
            inside &= batch.event_time_ms >= self.from_ms
        if self.to_ms is not None:
            inside &= batch.event_time_ms < self.to_ms
        return inside


@dataclass(slots=True)
class Replay:
    """A replay under way: feed it files, then end it."""

    pipeline: Pipeline
    registry: Registry
    state: PartitionState
    told: Callable[[Outcome], None]
    refused: Callable[[DeadLetter], None]
    span: Span = field(default_factory=Span)
    line: int = 0  # lines read so far, over all files
    opened: Counter[str] = field(default_factory=Counter)  # alerts by rule
    began_s: float = field(default_factory=time.perf_counter)

    def read(self, file: Path, progress: Callable[[int], None]) -> None:
        """Take a file of submits, one a line; `progress` hears of bytes read."""
        with file.open("rb") as content:
            first = self.line
            for lines, size in _pieces(content):
                self._take(lines, _name(file), first)
                progress(size)

    def end(self) -> None:
        """Close what is still open: nothing more will come."""
        newest_ms = max(self.state.clock_ms, *self.state.open.counts, 0)
        end_ms = newest_ms + PANE_MS + self.pipeline.lateness_ms
        self._tell(self.pipeline.step(self.state, empty_batch(end_ms), self.registry))

    def summary(self) -> dict[str, Any]:
        """As the contract has it (summary.json): of these files alone, whatever the state has seen before."""
        tally = self.state.tally
        span_ms = tally.last_event_ms - tally.first_event_ms
        return {
            "in": tally.submits_in,
            "counted": tally.counted,
            "late": tally.late,
            "misclocked": tally.misclocked,
            "duplicate": tally.duplicate,
            "rejected": dict(sorted(tally.rejected.items())),
            "alerts": dict(sorted(self.opened.items())),
            "first_event_ms": tally.first_event_ms or None,
            "last_event_ms": tally.last_event_ms or None,
            "seconds": round(time.perf_counter() - self.began_s, 3),
            "notes": [COLD] if span_ms < HISTORY_MS and not _has_history(self.state) else [],
        }

    def _take(self, values: list[bytes], file_name: str, first: int) -> None:
        offsets = np.arange(self.line + 1, self.line + 1 + len(values), dtype=np.int64)
        decoded = decode(values, offsets, None)
        self.line += len(values)
        rejected = Counter(str(reject.reason) for reject in decoded.rejects)
        rows = decoded.batch.where(self.span.marks(decoded.batch))
        self._tell(self.pipeline.step(self.state, rows, self.registry, rejected))
        for reject in decoded.rejects:
            self.refused(DeadLetter.of(replace(reject, offset=reject.offset - first), file_name, 0))

    def _tell(self, outcome: Outcome) -> None:
        self.opened.update(alert.rule for alert in outcome.alerts if alert.state is AlertState.OPEN)
        self.told(outcome)


def _pieces(content: BinaryIO) -> Iterator[tuple[list[bytes], int]]:
    """The lines of a file, without their ends, and the bytes read for them."""
    rest = b""
    while data := content.read(CHUNK_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        rest = rest[:LONGEST_KEPT]
        yield [line.rstrip(b"\r") for line in lines], len(data)
    if rest:
        yield [rest.rstrip(b"\r")], 0


def _name(file: Path) -> str:
    """A name that JSON can hold: in a file system it may be any bytes."""
    return os.fsencode(file.name).decode(errors="replace")


def _has_history(state: PartitionState) -> bool:
    volume: VolumeState = state.detectors[VolumeDetector().name]
    return bool(volume.seeds) or bool(volume.watch.baseline.classes.ready(GRID).any())


def run(
    files: Sequence[Path],
    registry: Registry,
    out: Path,
    *,
    dlq: Path | None = None,
    state_in: Path | None = None,
    state_out: Path | None = None,
    span: Span | None = None,
) -> dict[str, Any]:
    """`replay` into files, with progress on stderr. Raises `ReplayError` before it would write over what it reads."""
    read = {file.resolve() for file in files}
    if taken := [str(path) for path in (out, dlq, state_out) if path and path.resolve() in read]:
        raise ReplayError(f"{', '.join(taken)}: is one of the files to replay, and would be written over")
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = progress.add_task("replay", total=sum(file.stat().st_size for file in files))
        return replay(
            files,
            registry,
            stack.enter_context(out.open("wb")),
            dlq=stack.enter_context(dlq.open("wb")) if dlq else None,
            state_in=state_in,
            state_out=state_out,
            span=span,
            progress=lambda size: progress.advance(task, size),
        )


def replay(
    files: Sequence[Path],
    registry: Registry,
    out: BinaryIO,
    *,
    dlq: BinaryIO | None = None,
    state_in: Path | None = None,
    state_out: Path | None = None,
    span: Span | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Replay files in their order; writes a JSON line per lifecycle change of an alert, returns the summary.

    With `state_out` the state is saved as the files end, open panes and all, so that the next files can go on from it.
    Raises `StateFileError` for a `state_in` that can't be used and OSError for files that can't be read or written.
    """
    pipeline = Pipeline()
    name = "+".join(map(_name, files))
    state = load(state_in, pipeline) if state_in else pipeline.start(name, 0)
    state.episodes.topic, state.tally = name, Tally()

    def tell(outcome: Outcome) -> None:
        out.writelines(encode(alert) + b"\n" for alert in outcome.alerts)

    def refuse(letter: DeadLetter) -> None:
        if dlq:
            dlq.write(msgspec.json.encode(letter) + b"\n")

    run = Replay(pipeline, registry, state, tell, refuse, span or Span())
    for file in files:
        run.read(file, progress)
    if state_out:
        save(state, state_out)
    else:
        run.end()
    return run.summary()
