"""A series as a picture: what came against what was expected, and how surprising it was.

A picture has a few thousand columns of pixels. A longer series is drawn by what is extreme in each of them, so that no
spike is lost and a million ticks take no longer than some thousand.
"""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from detectors.batch import Flags, Floats
from streams.backtest.runs import Judged
from streams.backtest.stamps import SHANGHAI_MS

COLUMNS = 3_000
"""Of a picture, at most; more would share their pixels."""
HIGHEST = 1e200
"""Beyond it axes, which reckon with margins and squares, overflow."""
OFF_SCALE = 20
"""The scale is logarithmic when the largest value is so many times the largest usual one, which else were flat."""
USUAL_SURPRISE = 5.0
"""Once in 100,000 ticks; what is below it should be seen beside a surprise of thousands."""

_INK, _BLUE, _RED = "#222222", "#1f77d0", "#d62728"


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """What is drawn, per column; NaN breaks a line."""

    time: npt.NDArray[np.datetime64]  # of the clock of Shanghai
    least: Floats  # of the observed
    most: Floats
    expected: Floats
    low: Floats
    high: Floats
    surprise: Floats
    alert: Flags


def draw(file: Path, title: str, parts: Sequence[Judged]) -> None:
    """Draw the judged stretches of a series, in their order, as a PNG. Raises OSError where it can't be written."""
    curves = curves_of(parts)
    figure = Figure(figsize=(14, 7), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    values, surprises = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (values, surprises):
        axes.fill_between(
            curves.time, 0, 1, where=curves.alert, step="mid", transform=axes.get_xaxis_transform(),
            color=_RED, alpha=0.2, lw=1, label="alert",
        )  # fmt: skip
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
    _draw_values(values, curves)
    _draw_surprises(surprises, curves)
    values.set_title(os.fsencode(title).decode(errors="replace"), parse_math=False, loc="left", fontsize="medium")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # a name in Chinese may show as boxes
        canvas.print_png(file)


def _draw_values(axes: Axes, curves: Curves) -> None:
    axes.fill_between(curves.time, curves.low, curves.high, color=_BLUE, alpha=0.25, lw=0, label="low to high")
    axes.fill_between(curves.time, curves.least, curves.most, color=_INK, lw=0.6)
    axes.plot(curves.time, curves.most, color=_INK, lw=0.6, marker=",", label="observed")
    axes.plot(curves.time, curves.expected, color=_BLUE, lw=1.6, label="expected")
    _show_all(axes, _largest(curves.least, curves.most), _largest(curves.low, curves.high, curves.expected))
    axes.legend(loc="upper left", ncols=4, fontsize="small")


def _show_all(axes: Axes, largest: float, usual: float) -> None:
    if largest > OFF_SCALE * usual > 0:
        axes.set_yscale("symlog", linthresh=usual, linscale=np.log10(largest / usual))
        axes.yaxis.set_major_locator(few := SymmetricalLogLocator(base=10, linthresh=usual))
        few.set_params(numticks=5)


def _largest(*numbers: Floats) -> float:
    return max(float(np.fmax.reduce(np.abs(number), initial=0.0)) for number in numbers)


def _draw_surprises(axes: Axes, curves: Curves) -> None:
    axes.fill_between(curves.time, 0, curves.surprise, step="mid", color=_INK, lw=0.7)
    _show_all(axes, _largest(curves.surprise), USUAL_SURPRISE)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("surprise")
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def curves_of(parts: Sequence[Judged]) -> Curves:
    """At most `COLUMNS` columns, and one more behind each stretch that breaks the lines."""
    share = -(-sum(len(part.stretch) for part in parts) // COLUMNS)
    columns = [_columns(part, share) for part in parts]
    return Curves(*(np.concatenate([column[place] for column in columns]) for place in range(8)))


def _columns(part: Judged, share: int) -> tuple[npt.NDArray[np.generic], ...]:
    """`Curves` of a stretch, so many ticks a column, and a column of nothing behind them."""
    grid, ticks = part.stretch.series.grid, len(part.stretch)
    starts = np.arange(0, ticks, share)
    time_ms = grid.time_ms(part.stretch.start) + SHANGHAI_MS + grid.tick_ms * np.append(starts, ticks)

    def extreme(which: np.ufunc, values: Floats) -> Floats:
        return np.append(which.reduceat(np.clip(values, -HIGHEST, HIGHEST), starts), np.nan)

    observed = part.stretch.observed()
    expected, low, high, surprise, alert = part.scores
    return (
        time_ms.astype("M8[ms]"),
        extreme(np.fmin, observed),
        extreme(np.fmax, observed),
        (extreme(np.fmin, expected) + extreme(np.fmax, expected)) / 2,
        extreme(np.fmin, low),
        extreme(np.fmax, high),
        extreme(np.fmax, surprise),
        extreme(np.fmax, alert) == 1,
    )
