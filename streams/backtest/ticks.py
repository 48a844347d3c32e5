"""From rows at any times to one value per tick: which tick a series has, and which tick a row belongs to.

Whatever is inferred is inferred from the first `PREFIX` times alone, and then stands: a row never changes what was said
of the ticks before its own.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from detectors.batch import Floats, Ints
from streams.backtest import stamps
from streams.backtest.stamps import SHANGHAI_MS, Texts
from streams.backtest.table import LARGEST, Rows, TableError

PREFIX = 100
"""Different times that tick, phase and regularity are inferred from."""
SHORTEST_MS, LONGEST_MS = 10_000, 86_400_000
TICK_ALLOWED = "from 10s to 1d, a whole number of s, m, h or d"

_USUAL_MS = 1_000 * np.array(
    [10, 15, 20, 30, *(60 * np.array([1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60, 120, 180, 240, 360, 480, 720, 1440]))]
)
_NEAR = 0.01
"""A spacing that is this close to a usual tick is that tick: the rest is a slow clock."""
_TO_THE_SECOND_MS = 1_000
_REGULAR = 0.8
"""This part of the times is within a quarter of a tick of one phase; of times without one, half would be."""

FORGOTTEN_MS, FORGOTTEN_TICKS = 28 * 86_400_000, 100
"""A gap that is longer than both is a new beginning: no ticks in between, and a detector that knows nothing."""
MOST_TICKS_PER_ROW, MOST_TICKS = 1_000, 1_000_000
"""More ticks than both allow are no series of that tick, but a tick by mistake."""


class TickError(ValueError):
    """A tick that can't be; the text says which are allowed."""


def tick_ms(text: str) -> int:
    """'90s', '5m', '1h' or '1d' in milliseconds. Raises `TickError`."""
    form = re.fullmatch(r"(\d{1,6})([smhd])", text.strip(), re.ASCII)
    value = int(form[1]) * {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[form[2]] if form else 0
    if not SHORTEST_MS <= value <= LONGEST_MS:
        raise TickError(f"{text!r}: allowed is {TICK_ALLOWED}")
    return value


def told(tick_ms: int) -> str:
    """The same, the other way round."""
    units = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
    unit = next((unit for unit, size in units.items() if tick_ms % size == 0), "s")
    return f"{tick_ms / units[unit]:g}{unit}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The ticks of a series. Tick i of every series of one `tick_ms` is [i * tick_ms, (i + 1) * tick_ms) of Shanghai's
    wall clock, so that days begin at its midnight. A regular series has its rows at one phase of that, and a row is of
    the tick whose phase is nearest: one that comes early or late by less than half a tick is in its own.
    """

    tick_ms: int
    phase_ms: int = 0  # 0 <= phase < tick
    is_regular: bool = False

    @classmethod
    def of(cls, time_ms: Ints, tick_ms: int | None = None) -> "Grid":
        """The grid of a series whose different times, ascending, begin with these; the tick inferred when not given."""
        first = time_ms[:PREFIX]
        tick_ms = tick_ms or _usual_spacing(first)
        angles = 2 * np.pi * ((first + SHANGHAI_MS) % tick_ms) / tick_ms
        centre = np.angle(np.exp(1j * angles).mean())
        apart = np.angle(np.exp(1j * (angles - centre)))
        if np.mean(np.abs(apart) <= np.pi / 2) < _REGULAR:
            return cls(tick_ms)
        middle = np.argsort(apart, kind="stable")[len(apart) // 2]
        return cls(tick_ms, int((first[middle] + SHANGHAI_MS) % tick_ms), is_regular=True)

    def ticks(self, time_ms: Ints) -> Ints:
        """The tick of each time; times ascend."""
        if not self.is_regular:
            return (time_ms + SHANGHAI_MS) // self.tick_ms
        nearest = (time_ms + SHANGHAI_MS - self.phase_ms + self.tick_ms // 2) // self.tick_ms
        # Two rows that are far apart are not of one tick, even where jitter around its edge has put them into one.
        far = np.cumsum(np.diff(time_ms, prepend=time_ms[:1]) * 2 >= self.tick_ms)
        ticks: Ints = np.minimum(np.maximum.accumulate(nearest - far) + far, nearest + 1)
        return ticks

    def time_ms(self, tick: int) -> int:
        """When a row of the tick is due."""
        return tick * self.tick_ms + self.phase_ms - SHANGHAI_MS

    def start_ms(self, tick: int) -> int:
        """When the tick begins, for all series of one `tick_ms`."""
        return tick * self.tick_ms - SHANGHAI_MS


def _usual_spacing(time_ms: Ints) -> int:
    """The most frequent of the usual ticks, each gap taken for the nearest; another tick if the gaps are exactly it.

    Not the median: with half of the rows missing the most frequent gap still is the spacing. Gaps below the shortest
    tick are rows of one tick, whatever it is.
    """
    gaps = np.diff(time_ms)
    gaps = gaps[gaps >= SHORTEST_MS]
    if not len(gaps):
        return SHORTEST_MS
    nearest = np.abs(np.log(gaps[:, None] / _USUAL_MS)).argmin(axis=1)
    most = np.bincount(nearest).argmax()
    usual = int(_USUAL_MS[most])
    alike = gaps[nearest == most]
    spacing = int(np.median(alike))
    is_exact = np.mean(np.abs(alike - spacing) <= _TO_THE_SECOND_MS) > 0.5  # noqa: PLR2004 - most of them
    if not is_exact or abs(spacing / usual - 1) <= _NEAR:
        return usual
    return min(max(round(spacing / 1_000) * 1_000, SHORTEST_MS), LONGEST_MS)


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The ticks of a file that have rows, ascending."""

    grid: Grid
    tick: Ints
    stamp: Texts  # of the first row of each tick, as the file writes it
    observed: Floats  # NaN where the rows have no value

    @classmethod
    def of(cls, rows: Rows, tick_ms: int | None) -> "Series":
        """Values of one tick are added up as long as all values so far were counts (whole, not negative), from then on
        their mean is taken. Raises `TableError` where the ticks would be out of proportion to the rows."""
        is_new = np.diff(rows.time_ms, prepend=rows.time_ms[0] - 1) > 0
        grid = Grid.of(rows.time_ms[is_new], tick_ms)
        ticks = grid.ticks(rows.time_ms)
        first = np.flatnonzero(np.diff(ticks, prepend=ticks[0] - 1))
        series = cls(grid, ticks[first], rows.stamp[first], _merged(rows.value, first))
        length = sum(len(stretch) for stretch in series.stretches())
        if length > max(MOST_TICKS, MOST_TICKS_PER_ROW * len(ticks)):
            raise TableError(
                f"{len(ticks):,} rows would make {length:,} ticks of {told(grid.tick_ms)}: --tick is too short"
            )
        return series

    def stretches(self) -> Iterator["Stretch"]:
        """Cut where the gap is so long that the detector begins anew."""
        longest = max(FORGOTTEN_MS // self.grid.tick_ms, FORGOTTEN_TICKS)
        cuts = np.flatnonzero(np.diff(self.tick) > longest) + 1
        ends = [*cuts.tolist(), len(self.tick)]
        for begin, end in zip([0, *ends], ends, strict=False):
            yield Stretch(self, slice(begin, end))


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Consecutive ticks of a series, from one that has rows to one that has rows."""

    series: Series
    rows: slice

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def start(self) -> int:
        """Its first tick."""
        return int(self.series.tick[self.rows][0])

    @property
    def stop(self) -> int:
        """The tick behind its last one."""
        return int(self.series.tick[self.rows][-1]) + 1

    def observed(self) -> Floats:
        """Per tick; NaN = missing."""
        values = np.full(len(self), np.nan)
        values[self.places()] = self.series.observed[self.rows]
        return values

    def places(self) -> Ints:
        """Of the ticks that have rows, from its first tick on."""
        return self.series.tick[self.rows] - self.start

    def stamps(self) -> list[bytes]:
        """Per tick, as the file has it or, where it has none, as it would write it."""
        own: list[bytes] = self.series.stamp[self.rows].tolist()
        if len(own) == len(self):
            return own
        grid, result = self.series.grid, list[bytes]()
        for tick, stamp in zip(self.series.tick[self.rows].tolist(), own, strict=True):
            missing = range(self.start + len(result), tick)
            result += [stamps.like(result[-1], grid.time_ms(between)) for between in missing]
            result.append(stamp)
        return result


def _merged(value: Floats, first: Ints) -> Floats:
    """One value for each tick, whose rows begin at `first`."""
    has_value = ~np.isnan(value)
    counts = np.add.reduceat(has_value, first, dtype=np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = np.add.reduceat(np.where(has_value, value, 0.0), first)
        sums = np.clip(sums, -LARGEST, LARGEST)
        is_real = np.add.reduceat(has_value & ((value < 0) | (value != np.floor(value))), first, dtype=np.int64) > 0
        adds = ~np.logical_or.accumulate(is_real)
        return np.where(counts > 0, np.where(adds, sums, sums / np.maximum(counts, 1)), np.nan)
