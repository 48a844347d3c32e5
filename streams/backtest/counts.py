"""`portwatch backtest counts`: files and folders in, a file of scores for each, a word on each, and pictures.

Files are read, judged and written in batches that fit the memory, so that a folder may be of any size.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console
from rich.progress import Progress

from detectors.batch import Floats
from detectors.volume.series import SeriesDetector
from streams.backtest import table
from streams.backtest.runs import Judged, judge
from streams.backtest.ticks import Series, told

SUFFIXES = (".csv", ".csv.gz")
BATCH_TICKS = 25_000_000
"""Ticks that are held together, at some 100 bytes each. A file that has more is a batch of its own."""
MOST_TOLD = 20
"""Files that get a line at the end."""
HIGHEST = 3
"""Surprises of a file that are told."""
_LINES = 16_384  # written together: what fits the caches takes a third of the time

Draw = Callable[[Path, str, Sequence[Judged]], None]
"""Draws the judged stretches of a series, in their order, into a file, under a title."""


class UsageError(ValueError):
    """Paths that don't go together; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Job:
    """An input and where its output goes; `out` None is stdout, `plot` None no picture."""

    file: Path
    out: Path | None
    plot: Path | None


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a file."""

    file: Path
    tick_ms: int
    ticks: int
    missing: int  # of them, those without a value
    episodes: int
    highest: Sequence[tuple[float, str]]  # the highest surprises, and when

    def __str__(self) -> str:
        text = f"{self.file}: {self.ticks:,} ticks of {told(self.tick_ms)}, {_counted(self.missing, self.episodes)}"
        highest = ", ".join(f"{surprise:.1f} at {stamp}" for surprise, stamp in self.highest)
        return f"{text}; highest surprise {highest}" if highest else text


def jobs(paths: Sequence[Path], out: Path | None, plot: Path | None) -> list[Job]:
    """What is to be done; a folder stands for its .csv and .csv.gz files, at any depth. Raises `UsageError`."""
    folders = [path for path in paths if path.is_dir()]
    inputs = [found for path in paths for found in _inputs(path, [one for one in (out, plot) if one])]
    is_many = bool(folders) or len(inputs) > 1
    if len(inputs) > 1 and not out:
        raise UsageError(f"{len(inputs):,} inputs need --out, a folder to write to")
    places = [
        Job(file, _target("--out", out, name, is_many), _target("--plot", plot, name.with_suffix(".png"), is_many))
        for file, name in inputs
    ]
    _refuse_clashes(places)
    return places


def _inputs(path: Path, targets: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Files, and what they are called where several are written; those in a folder to write to are none."""
    if not path.is_dir():
        yield path, _plain(Path(path.name))
        return
    own = [target for target in map(Path.resolve, targets) if path.resolve() in target.parents]
    found = [file for file in sorted(path.rglob("*")) if file.name.lower().endswith(SUFFIXES) and file.is_file()]
    kept = [file for file in found if not any(file.resolve().is_relative_to(target) for target in own)]
    if not kept:
        raise UsageError(f"{path}: there is no {' and no '.join(SUFFIXES)} file in it")
    yield from ((file, _plain(file.relative_to(path))) for file in kept)


def _plain(name: Path) -> Path:
    """Without .gz: what we write is not compressed."""
    return name.with_suffix("") if name.suffix.lower() == ".gz" else name


def _target(option: str, path: Path | None, name: Path, is_many: bool) -> Path | None:
    if path is None or (not is_many and not path.is_dir()):
        return path
    if path.exists() and not path.is_dir():
        raise UsageError(f"{option}: {path} is a file, and several inputs need a folder")
    return path / name


def _refuse_clashes(places: Sequence[Job]) -> None:
    read = {_identity(job.file) for job in places}
    written: dict[Path, Path] = {}
    for job in places:
        for path in (job.out, job.plot):
            if path and path.exists() and _identity(path) in read:
                raise UsageError(f"{path}: is an input, and would be written over")
            if path and (other := written.setdefault(path.resolve(), job.file)) is not job.file:
                raise UsageError(f"{path}: both {other} and {job.file} would be written to it")
        if job.out and job.plot and job.out.resolve() == job.plot.resolve():
            raise UsageError(f"{job.out}: is both --out and --plot")


def _identity(path: Path) -> tuple[int, int]:
    """Of the file itself, whatever it is called."""
    status = path.stat()
    return status.st_dev, status.st_ino


def run(places: Sequence[Job], tick_ms: int | None, draw: Draw | None, say: Callable[[str], None]) -> list[Report]:
    """Do the jobs, with progress on stderr; `say` hears what is wrong in which file. A file that can't be used is
    without a report. Raises OSError where an output can't be written."""
    reports = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        reading = progress.add_task("read", total=sum(job.file.stat().st_size for job in places))
        judging, writing = (progress.add_task(what, total=0) for what in ("judge", "write"))
        for batch in _batches(places, tick_ms, say, lambda size: progress.advance(reading, size)):
            stretches = [stretch for _, series in batch for stretch in series.stretches()]
            for task in (judging, writing):
                progress.update(task, total=(progress.tasks[task].total or 0) + sum(map(len, stretches)))
            parts: defaultdict[int, list[Judged]] = defaultdict(list)
            for judged in judge(stretches, SeriesDetector(), lambda ticks: progress.advance(judging, ticks)):
                parts[id(judged.stretch.series)].append(judged)
            for job, series in batch:
                own = sorted(parts.pop(id(series)), key=lambda judged: judged.stretch.start)
                reports.append(_write(job, series, own, draw))
                progress.advance(writing, reports[-1].ticks)
    return reports


def _batches(
    places: Iterable[Job], tick_ms: int | None, say: Callable[[str], None], progress: Callable[[int], None]
) -> Iterator[list[tuple[Job, Series]]]:
    """Jobs with what is in their files."""
    batch, ticks = list[tuple[Job, Series]](), 0
    for job in places:
        series = _read(job.file, tick_ms, say, progress)
        if series is None:
            continue
        batch.append((job, series))
        ticks += sum(map(len, series.stretches()))
        if ticks >= BATCH_TICKS:
            yield batch
            batch, ticks = [], 0
    yield batch


def _read(
    file: Path, tick_ms: int | None, say: Callable[[str], None], progress: Callable[[int], None]
) -> Series | None:
    problems = table.Problems()
    try:
        series = Series.of(table.read(file, problems, progress), tick_ms)
    except (table.TableError, OSError) as error:
        series = None
        say(f"{file}: not judged: {error.strerror if isinstance(error, OSError) else error}")
    for text in problems.told():
        say(f"{file}: {text}")
    return series


def _write(job: Job, series: Series, parts: Sequence[Judged], draw: Draw | None) -> Report:
    if job.out:
        job.out.parent.mkdir(parents=True, exist_ok=True)
    with job.out.open("wb") if job.out else nullcontext(sys.stdout.buffer) as out:
        out.write(table.HEADER)
        for part in parts:
            _write_part(out, part)
    if job.plot and draw:
        job.plot.parent.mkdir(parents=True, exist_ok=True)
        draw(job.plot, str(job.file), parts)
    return _report(job.file, series, parts)


def _write_part(out: BinaryIO, part: Judged) -> None:
    stamps, observed = part.stretch.stamps(), part.stretch.observed()
    for begin in range(0, len(part.stretch), _LINES):
        rows = slice(begin, begin + _LINES)
        out.write(table.lines(stamps[rows], observed[rows], part.scores[:, rows]))


def _report(file: Path, series: Series, parts: Sequence[Judged]) -> Report:
    ticks = sum(len(part.stretch) for part in parts)
    alerts = [part.scores[4] == 1 for part in parts]
    surprise = np.concatenate([part.scores[3][part.stretch.places()] for part in parts])
    return Report(
        file,
        series.grid.tick_ms,
        ticks,
        missing=ticks - int(np.isfinite(series.observed).sum()),
        episodes=sum(int((np.diff(alert, prepend=False) & alert).sum()) for alert in alerts),
        highest=[(float(surprise[row]), series.stamp[row].decode()) for row in _highest(surprise)],
    )


def _highest(surprise: Floats) -> list[int]:
    """Where it is highest, in falling order."""
    known = np.where(np.isnan(surprise), -np.inf, surprise)
    top = np.argpartition(-known, min(HIGHEST, len(known)) - 1)[:HIGHEST]
    return [row for row in top[np.argsort(-known[top], kind="stable")].tolist() if np.isfinite(known[row])]


def summary(reports: Sequence[Report]) -> list[str]:
    """Lines for people: on each file, or on those with the highest surprises, and on all together."""
    told = nlargest(MOST_TOLD, reports, key=lambda report: report.highest[0][0] if report.highest else 0.0)
    lines = [str(report) for report in reports if report in told]
    if len(reports) > 1:
        ticks = sum(report.ticks for report in reports)
        counted = _counted(sum(report.missing for report in reports), sum(report.episodes for report in reports))
        lines.append(f"{len(reports):,} files: {ticks:,} ticks, {counted}")
    return lines


def _counted(missing: int, episodes: int) -> str:
    return f"{missing:,} missing, {episodes:,} episode{'' if episodes == 1 else 's'}"
