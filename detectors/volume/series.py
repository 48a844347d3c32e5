"""The volume detector on any series of numbers, tick by tick: what a backtest runs."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.batch import Flags
from detectors.volume.baseline import Grid
from detectors.volume.negative_binomial import central
from detectors.volume.scan import Scan, Watch, watch

F64 = npt.NDArray[np.float64]
MEASURED = 30
"""Values of a series after which its kind and unit are settled; before, nothing is said of it."""
_FINEST, _COARSEST = 1e-6, 1e-3  # units of a real-valued series, in parts of its mean
_LARGEST = 1e100  # value, and
_MOST = 1e10  # units of a value that are taken in: their cubes are still a float32
_ROOM = 3.0  # spans of a series with values below zero, that are put underneath it


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What is said of every series at a tick; arrays [series], NaN where it has no value."""

    observed: F64
    expected: F64
    low: F64  # central 95 %
    high: F64
    surprise: F64  # -log10 of the chance of a value so far up or down
    alert: Flags  # an episode is open


@dataclass(slots=True, eq=False)
class SeriesState:
    watch: Watch
    first: F64  # [30, series] the first values
    held: npt.NDArray[np.int64]  # how many of them there are
    unit: F64
    offset: F64
    counts: Flags  # whole numbers, none below zero


@dataclass(frozen=True, slots=True)
class SeriesDetector:
    """Counts are taken as they are. Real values are brought to a scale on which they scatter as counts do."""

    scan: Scan = field(default_factory=lambda: Scan(least_factor=1.0))

    def start(self, series: int, tick_ms: int) -> SeriesState:
        state = watch(series, series, Grid(tick_ms))
        state.baseline.class_of[:] = np.arange(series)
        return SeriesState(
            watch=state,
            first=np.full((MEASURED, series), np.nan),
            held=np.zeros(series, np.int64),
            unit=np.ones(series),
            offset=np.zeros(series),
            counts=np.ones(series, np.bool_),
        )

    def step(self, state: SeriesState, start_ms: int, values: F64) -> Scores:
        """Take the next tick. NaN is a value that is not known."""
        known = np.isfinite(values)
        values = np.where(known, np.clip(values, -_LARGEST, _LARGEST), np.nan)
        _measure(state, values, known)
        known &= state.held == MEASURED
        baseline, n = state.watch.baseline, len(values)
        everywhere = slice(0, n)
        scaled = (np.where(known, values, 0) - state.offset) / state.unit
        baseline.move_to(start_ms)
        baseline.expect(everywhere)
        tested = self.scan.tick(state.watch, np.clip(scaled, 0, _MOST).astype(np.float32), known)
        surprise = np.zeros(n)
        ready = baseline.has_history(tested.series)
        surprise[tested.series] = np.where(ready, tested.score.max(axis=0), 0)
        spread = baseline.spread(0, baseline.lately, everywhere)
        sigma = spread.sigma
        surprise += np.where(known & baseline.has_history(everywhere), np.maximum(-scaled, 0) / sigma, 0)
        variance = spread.mean + spread.extra
        return Scores(
            observed=np.where(known, values, np.nan) if known.all() else values,
            expected=_back(state, spread.mean, known),
            low=_back(state, central(spread.mean, variance, -1.96), known),
            high=_back(state, central(spread.mean, variance, 1.96), known),
            surprise=np.where(known, surprise, np.nan),
            alert=np.logical_or.reduce(state.watch.since > 0),
        )


def _back(state: SeriesState, scaled: npt.NDArray[np.float32], known: Flags) -> F64:
    return np.where(known, scaled * state.unit + state.offset, np.nan)


def _measure(state: SeriesState, values: F64, known: Flags) -> None:
    """Settle what a series is by its first values."""
    fresh = np.flatnonzero(known & (state.held < MEASURED))
    state.first[state.held[fresh], fresh] = values[fresh]
    state.held[fresh] += 1
    for i in fresh[state.held[fresh] == MEASURED].tolist():
        first = state.first[:, i]
        state.counts[i] = bool(((first >= 0) & (first == np.floor(first))).all())
        if state.counts[i]:
            continue
        if first.min() < 0:
            state.offset[i] = first.min() - _ROOM * np.ptp(first)
        mean = float((first - state.offset[i]).mean()) or 1.0
        noise = float(np.median(np.abs(np.diff(first)))) * 1.4826 / np.sqrt(2)
        state.unit[i] = np.clip(noise**2 / (4 * mean), mean * _FINEST, mean * _COARSEST)
    for i in fresh[state.held[fresh] == MEASURED].tolist():
        _believe(state, i)


def _believe(state: SeriesState, i: int) -> None:
    """What is thought of the scatter of a series before it has shown any: no more than its first values stray."""
    first = (state.first[:, i] - state.offset[i]) / state.unit[i]
    mean, classes = max(float(first.mean()), 1e-6), state.watch.baseline.classes
    phi = float(np.clip(first.var() / mean**2, 1e-4, 0.5))
    classes.phi[i] = phi
    if state.counts[i]:
        few, ratio = 50.0, float(np.clip(first.var() / mean, 0.5, 20.0))
        classes.psi[i] = (20.0 * few + ratio * first.sum()) / (few + first.sum())
    else:
        classes.psi[i] = phi * mean
    classes.batch[i] = 2 * classes.psi[i]
