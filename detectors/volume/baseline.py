"""What is usual in a series of counts: level x profile of the day, and a quick level for what is going on today.

Every series leans on its class until it has a history of its own. The profile has its own row for working days,
weekends and public holidays. Times of day are those of Asia/Shanghai, UTC+8 without summer time since 1991.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.batch import Flags, Ints
from detectors.calendar import SHANGHAI_MS, DayKind, day_of, kind_of_day
from detectors.volume.dispersion import F32, I32, Prior, Spread, Strays, Told, Where, spread

F16 = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.uint8]

DAY_MS = 86_400_000
WINDOWS = (1, 3, 12)
"""Ticks that are summed up and tested together; the first is the unit of learning."""
LONGEST = WINDOWS[-1]
QUICK = 2
"""The first so many of them are compared with what is usual today, too; the longest only with what is usual."""
QUICK_TICKS = WINDOWS[QUICK - 1]

_LEVEL_DAYS = 7.0
"""A level follows growth within a week, and spans one, so that a quiet Sunday does not lower it."""
STRAY_DAYS = 28.0
"""Four weeks, as the profile: dispersion is a habit of the sender."""
_LEAST_TICKS = 28.0  # of either memory, where ticks are long
_LATELY_MS, _LATELY_TICKS = 7_200_000, 6
"""The quick level follows within two hours, and within six ticks at least."""
_FLOOR = np.float32(0.02)  # of the mean level of a series: a choice
_FEW_MS, _FEW_TICKS = 14_400_000, 6.0
_LATELY_WORTH = np.float32(10)  # batches that the slow level is worth against the quick one: a choice, noise of 30 %
_CLASS_SLOT_VARIANCE = 0.5  # relative variance of a slot of a class that was never seen: a choice, sd 70 %
_OWN_SLOT_VARIANCE = 0.25  # of a series' slot about that of its class: a choice, sd 50 %
_LEAST_NOISE = 0.01
_SLOT_NOISE = 0.125  # of one slot of one day about its mean: a choice, sd 35 %
_DAYS_OF_KIND = (20.0, 8.0, 2.0)  # in four weeks
_LEAST_MEAN = np.float32(1e-5)  # counts per tick: one in a year, and its square is still a float32
_LEAST_PROFILE = np.float32(1e-3)
_TELLING = 50.0  # from so many expected counts on the dispersion of a series says something about its class
_COLD_QUANTILE = 0.75  # a cold series gets the dispersion of the upper quartile of its class: benefit of the doubt
_ACCEPTED = np.float32(1e-3)
_FEWEST = 5  # members: a quartile of fewer is one series' habit
_SLOTS_MS = (3_600_000, 7_200_000, 14_400_000, 21_600_000, 43_200_000, DAY_MS)


@dataclass(frozen=True, slots=True)
class Grid:
    """How time is cut: into ticks, a day's profile into slots of an hour or as long as a tick, and the parts of a
    tick that are watched besides (their length in ticks)."""

    tick_ms: int
    parts: tuple[float, ...] = ()

    @property
    def slot_ms(self) -> int:
        return next(slot for slot in _SLOTS_MS if slot >= min(self.tick_ms, DAY_MS))

    @property
    def slots(self) -> int:
        return DAY_MS // self.slot_ms

    @property
    def day_ticks(self) -> float:
        return DAY_MS / self.tick_ms

    @property
    def few_ticks(self) -> float:
        """Ticks that tell little of the days of a series: four hours, or six ticks."""
        return max(_FEW_MS / self.tick_ms, _FEW_TICKS)

    @property
    def windows(self) -> int:
        """Of all lengths, those within a tick first."""
        return len(self.parts) + len(WINDOWS)

    @property
    def per_tick(self) -> tuple[float, ...]:
        """How many windows of a length a tick is worth: those of several ticks overlap."""
        return (*(1 / part for part in self.parts), *(1 / ticks for ticks in WINDOWS))

    @property
    def tick(self) -> int:
        """The window of one tick."""
        return len(self.parts)

    def slot_of(self, at_ms: int) -> int:
        """Slot of the day in Shanghai."""
        return (at_ms + SHANGHAI_MS) % DAY_MS // self.slot_ms

    def keep(self, days: float) -> np.float32:
        """What a forgetting sum keeps per tick."""
        return np.float32(1 - 1 / max(days * self.day_ticks, _LEAST_TICKS))


@dataclass(slots=True, eq=False)
class History:
    """What was learnt per series. The last axis is the series; everything is zero for one never seen."""

    submits: F32  # [p] forgetting sum of the counts of ticks, winsorised
    exposure: F32  # [p] forgetting sum of the profile at the same ticks: submits / exposure is the level
    ticks: I32  # [p] ticks learnt
    days: Bytes  # [kinds, p] days of a kind, up to 255
    deviation: F16  # [kinds * slots, p] log of own over class profile
    told_parts: F32  # [p] forgetting count of the ticks that told how counts stray within them
    told_whole: F32  # [p] and of those that told how whole ones do
    strays: Strays  # [windows, p]
    odd: F32  # [2, w, p] forgetting count of odd windows of whole ticks, up and down
    beyond: F32  # [2, w, p] forgetting sum of what their surprise was beyond what makes them odd


@dataclass(slots=True, eq=False)
class Running:
    """The last hours; last axis as in History."""

    slot_submits: F32  # [p] of the slot that is not over yet
    slot_mean: F32  # [p]
    slot_ticks: npt.NDArray[np.int16]  # [p]
    lately_submits: F32  # [p] forgetting sums of the quick level
    lately_mean: F32  # [p]
    counts: F32  # [12, p] of the last ticks, by number of the tick
    means: F32  # [12, p] what was expected of them
    lately: F32  # [3, p] and by the quick level


@dataclass(slots=True, eq=False)
class ClassHistory:
    """What was learnt per class (first axis) from all its series. Until then: a flat day and wide dispersion."""

    profile: F32  # [c, kinds * slots]
    seen: F32  # [c, kinds * slots] days, by what they told
    first_day: F32  # [c, slots] counts of the first day
    ticks: I32  # [c] ticks learnt
    level: F32  # [c] mean level of its series
    likeness: F32  # [c] gamma shape of their levels
    psi: F32  # [c, windows] of a cold series
    phi: F32  # [c, windows] of a cold series
    batch: F32  # [c, windows] of a cold series

    def ready(self, grid: Grid) -> Flags:
        """Which classes have a day of history."""
        result: Flags = self.ticks >= grid.day_ticks
        return result

    def copy(self) -> "ClassHistory":
        return ClassHistory(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


def _zeros(capacity: int, dtype: npt.DTypeLike = np.float32, *shape: int) -> npt.NDArray[Any]:
    return np.zeros((*shape, capacity), dtype)


def history(series: int, grid: Grid) -> History:
    """The history of as many series never seen."""
    return History(
        submits=_zeros(series),
        exposure=_zeros(series),
        ticks=_zeros(series, np.int32),
        days=_zeros(series, np.uint8, len(DayKind)),
        deviation=_zeros(series, np.float16, len(DayKind) * grid.slots),
        told_parts=_zeros(series),
        told_whole=_zeros(series),
        strays=Strays(**{f.name: _zeros(series, np.float32, grid.windows) for f in fields(Strays)}),
        odd=_zeros(series, np.float32, 2, len(WINDOWS)),
        beyond=_zeros(series, np.float32, 2, len(WINDOWS)),
    )


def _running(series: int) -> Running:
    return Running(
        slot_submits=_zeros(series),
        slot_mean=_zeros(series),
        slot_ticks=_zeros(series, np.int16),
        lately_submits=_zeros(series),
        lately_mean=_zeros(series),
        counts=_zeros(series, np.float32, LONGEST),
        means=_zeros(series, np.float32, LONGEST),
        lately=_zeros(series, np.float32, QUICK_TICKS),
    )


def class_history(classes: int, grid: Grid) -> ClassHistory:
    """Classes that know nothing yet."""

    def filled(value: float, *shape: int) -> F32:
        return np.full((classes, *shape), value, np.float32)

    slots = len(DayKind) * grid.slots
    return ClassHistory(
        profile=filled(1, slots),
        seen=filled(0, slots),
        first_day=filled(0, grid.slots),
        ticks=np.zeros(classes, np.int32),
        level=filled(1),
        likeness=filled(0.1),
        psi=filled(20, grid.windows),
        phi=filled(0.5, grid.windows),
        batch=filled(40, grid.windows),
    )


def widened(column: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    """The column with room for more series, which read zero."""
    wide = np.zeros((*column.shape[:-1], capacity), column.dtype)
    wide[..., : column.shape[-1]] = column
    return wide


@dataclass(slots=True, eq=False)
class Baseline:
    """Expectation of a set of series; shapes end in [p], indexed by series code."""

    grid: Grid
    history: History
    running: Running
    classes: ClassHistory
    class_of: I32  # [p]
    profile: F32  # [p] of the current tick, mean about 1
    mean: F32  # [p] expected counts of the current tick
    lately: F32  # [p] and by the quick level
    tick_ms: int = 0  # start of the current tick; 0 = none yet

    @property
    def number(self) -> int:
        """Of the current tick."""
        return self.tick_ms // self.grid.tick_ms

    @property
    def kind(self) -> DayKind:
        return kind_of_day(day_of(self.tick_ms))

    @property
    def slot(self) -> int:
        """Row of the profiles."""
        return self.kind * self.grid.slots + self.grid.slot_of(self.tick_ms)

    def move_to(self, tick_ms: int) -> None:
        """Begin a tick: close the slot and the day that it leaves behind. `expect` follows."""
        grid = self.grid
        if self.tick_ms:
            slot = (self.tick_ms + SHANGHAI_MS) // grid.slot_ms
            if (tick_ms + SHANGHAI_MS) // grid.slot_ms != slot:
                self._close_slot()
            if day_of(tick_ms) != day_of(self.tick_ms):
                self._close_day()
            for number in range(self.number + 1, min(tick_ms // grid.tick_ms, self.number + LONGEST + 1)):
                self.running.counts[number % LONGEST] = self.running.means[number % LONGEST] = 0
                self.running.lately[number % QUICK_TICKS] = 0
        self.tick_ms = tick_ms

    def expect(self, where: Where) -> None:
        """Work out profile and means of the current tick."""
        running, classes, kind, slot = self.running, self.classes, self.class_of[where], self.slot
        deviation = self.history.deviation[slot, where].astype(np.float32)
        profile = classes.profile[kind, slot] * np.exp(deviation)
        shape = classes.likeness[kind]
        exposure = self.history.exposure[where] + shape / classes.level[kind]
        level = (self.history.submits[where] + shape) / exposure  # mean of the gamma posterior; the class is the prior
        mean = np.maximum(level * profile, _LEAST_MEAN)
        worth = _LATELY_WORTH * (1 + self._batches(where))
        self.profile[where], self.mean[where] = profile, mean
        self.lately[where] = mean * (running.lately_submits[where] + worth) / (running.lately_mean[where] + worth)

    def floor(self, where: Where) -> F32:
        """What may always come in a tick: how rare it is in the dead of night nobody knows so well."""
        level = np.divide(self.mean[where], np.maximum(self.profile[where], _LEAST_MEAN), dtype=np.float32)
        floor: F32 = level * _FLOOR
        return floor

    def _batches(self, where: Where) -> F32:
        """Roughly what a message brings with it: the excess variance of ticks per message."""
        strays, kind, tick = self.history.strays, self.class_of[where], self.grid.tick
        strayed = np.maximum(strays.strayed[tick, where], 0) + _TELLING * self.classes.psi[kind, tick]
        result: F32 = strayed / (strays.mean[tick, where] + np.float32(_TELLING))
        return result

    def _doubt(self, where: Where, phi: F32) -> F32:
        """Known slots stray no less than the fitted residuals do, so it fades as fast as those allow."""
        kind, slot = self.class_of[where], self.slot
        told_by = self.classes.likeness[kind] + self.history.submits[where] / (1 + self._batches(where))
        prior = _OWN_SLOT_VARIANCE + _uncertain(_CLASS_SLOT_VARIANCE, self.classes.seen[kind, slot])
        noise = np.clip(phi, _LEAST_NOISE, _SLOT_NOISE)
        days = self.history.days[self.kind, where].astype(np.float32)
        doubt: F32 = np.add(1 / told_by, 1 / (1 / prior + days / noise), dtype=np.float32)
        return doubt

    def scatter(self, window: int, where: Where) -> tuple[Prior, F32]:
        """psi, phi and batch of windows of that length; and the relative variance of their mean itself, by what is not
        yet known of level and profile."""
        kind, classes = self.class_of[where], self.classes
        prior = Prior(classes.psi[kind, window], classes.phi[kind, window], classes.batch[kind, window])
        fitted = self.history.strays.fitted(window, where, self._number(window, where), self.grid.few_ticks, prior)
        return fitted, self._doubt(where, fitted.phi)

    def _number(self, window: int, where: Where) -> F32:
        """Windows of that length that told how counts stray."""
        number: F32 = self._ticks_told(window)[where] * np.float32(self.grid.per_tick[window])
        return number

    def _ticks_told(self, window: int) -> F32:
        return self.history.told_whole if window >= self.grid.tick else self.history.told_parts

    def spread(self, window: int, mean: F32, where: Where) -> Spread:
        """How counts of windows with that mean scatter."""
        return spread(mean, *self.scatter(window, where))

    def before(self, where: Where) -> F32:
        """What was expected in the tick before the current one."""
        result: F32 = self.running.means[(self.number - 1) % LONGEST, where]
        return result

    def has_history(self, where: Where) -> Flags:
        """Contract, cold start: a day of history of the series or its class."""
        own = self.history.ticks[where] >= self.grid.day_ticks
        result: Flags = own | self.classes.ready(self.grid)[self.class_of[where]]
        return result

    def count(self, here: slice, counts: F32, known: Flags) -> tuple[F32, F32, F32]:
        """Take the counts of the current tick. Returns, [w, n], of the windows of whole ticks that end with it: the
        counts, what was expected of them, and what by the quick level."""
        running, number = self.running, self.number
        running.counts[number % LONGEST, here] = np.where(known, counts, 0)
        running.means[number % LONGEST, here] = np.where(known, self.mean[here], 0)
        running.lately[number % QUICK_TICKS, here] = np.where(known, self.lately[here], 0)
        observed, means, lately = (np.empty((len(WINDOWS), len(counts)), np.float32) for _ in range(3))
        for w, ticks in enumerate(WINDOWS):
            rows = [(number - back) % LONGEST for back in range(ticks)]
            _sum_rows(running.counts, rows, here, observed[w])
            _sum_rows(running.means, rows, here, means[w])
            if w < QUICK:
                _sum_rows(running.lately, [row % QUICK_TICKS for row in rows], here, lately[w])
            else:
                lately[w] = means[w]
        return observed, np.maximum(means, _LEAST_MEAN), np.maximum(lately, _LEAST_MEAN)

    def learn_strays(self, first: int, here: slice, told: Sequence[Told], tells: Flags) -> None:
        """Learn what the windows, from the first one on, told of the series that `tells` marks, [n]."""
        ready = self.classes.ready(self.grid)[self.class_of[here]]  # before, the profile is flat and all is stray
        keep, tells = self.grid.keep(STRAY_DAYS), tells & ready
        ticks = self._ticks_told(first)[here]
        np.copyto(ticks, ticks * keep + 1, where=tells)
        for window, what in enumerate(told, first):
            self.history.strays.add(window, here, tells, keep, what)

    def learn_level(self, here: slice, counts: F32, most: F32, *, slow: Flags, quick: Flags, forgive: Flags) -> None:
        """Learn the current tick from the counts, winsorised at `most` beyond what was expected, [n].

        slow: series whose habits it tells of. quick: those it tells of what is going on today. forgive: take these as
        they are, not winsorised.
        """
        grid, running, old = self.grid, self.running, self.history
        cold = ~self.classes.ready(grid)[self.class_of[here]]
        limit = np.maximum(self.mean[here], self.lately[here]) + most
        usual = np.minimum(counts, np.where(cold | forgive, np.float32(np.inf), limit))
        keep = grid.keep(_LEVEL_DAYS)
        lately = np.float32(1 - 1 / max(_LATELY_MS / grid.tick_ms, _LATELY_TICKS))
        for sums, new, rate, mask in (
            (old.submits, usual, keep, slow),
            (old.exposure, self.profile[here], keep, slow),
            (running.lately_submits, usual, lately, quick),
            (running.lately_mean, self.mean[here], lately, quick),
        ):
            np.copyto(sums[here], sums[here] * rate + new, where=mask)
        old.ticks[here] += slow
        running.slot_submits[here] += usual * slow
        running.slot_mean[here] += self.mean[here] * slow
        running.slot_ticks[here] += slow

    def accept(self, series: Ints) -> None:
        """Their level is another one from now on: what was learnt of it weighs next to nothing."""
        for column in (
            self.history.submits,
            self.history.exposure,
            self.running.lately_submits,
            self.running.lately_mean,
        ):
            column[series] *= _ACCEPTED

    def learn_first_day(self, counts: F32, slow: Flags) -> None:
        """The first day of a class is summed up as it is; then it becomes the profile of all days."""
        classes, kind, number = self.classes, self.class_of[: len(counts)], len(self.classes.ticks)
        cold = ~classes.ready(self.grid)
        if not cold.any():
            return
        sums = np.bincount(kind, counts * slow, number)
        classes.first_day[:, self.grid.slot_of(self.tick_ms)] += np.where(cold, sums, 0)
        classes.ticks += np.bincount(kind[slow], minlength=number) > 0
        for c in np.flatnonzero(cold & classes.ready(self.grid)):
            day = classes.first_day[c]
            day = day + np.float32(0.05) * day.mean() + np.float32(1)  # what happened to be silent is not impossible
            classes.profile[c] = np.tile(day / day.mean(), len(DayKind))
            classes.seen[c] = 0.5  # of one kind of day one day, of the others none
            self._pool(int(c))

    def _close_slot(self) -> None:
        """Learn a slot of the profiles: first the class's, then what is the series' own."""
        running, classes, kind, slot = self.running, self.classes, self.class_of, self.slot
        grid, number, everywhere = self.grid, len(self.classes.ticks), slice(None)
        mean = np.maximum(running.slot_mean, np.float32(1e-6))
        batches = self._batches(everywhere)
        phi = self.scatter(grid.tick, everywhere)[0].phi
        enough = running.slot_ticks >= max(1.0, 0.5 * grid.slot_ms / grid.tick_ms)
        full = enough & classes.ready(grid)[kind]
        tells = np.where(full & (self.history.ticks >= grid.day_ticks), 1 / (phi + (1 + batches) / mean), 0)
        weight = np.bincount(kind, tells, number)
        spoken = np.flatnonzero(weight)
        noise = _SLOT_NOISE + 1 / weight[spoken]
        most = _DAYS_OF_KIND[self.kind]
        gain = _gain(_CLASS_SLOT_VARIANCE, np.minimum(classes.seen[spoken, slot], most), noise)
        factor = np.ones(number)
        ratio = np.bincount(kind, tells * running.slot_submits / mean, number)[spoken] / weight[spoken]
        factor[spoken] += gain * (ratio - 1)
        classes.profile[:, slot] = np.maximum(classes.profile[:, slot] * factor, _LEAST_PROFILE)
        classes.seen[spoken, slot] += _SLOT_NOISE / noise
        days = np.minimum(self.history.days[self.kind], most).astype(np.float32)
        own = _gain(_OWN_SLOT_VARIANCE, days, _SLOT_NOISE + (1 + batches) / mean)
        expected = mean * factor[kind].astype(np.float32)
        deviation = self.history.deviation[slot] + own * _log_ratio(running.slot_submits, expected, 1 + batches)
        np.copyto(self.history.deviation[slot], np.clip(deviation, -4, 4).astype(np.float16), where=full)
        running.slot_submits[:] = running.slot_mean[:] = running.slot_ticks[:] = 0

    def _close_day(self) -> None:
        days = self.history.days[self.kind]
        days += (self.history.ticks > 0) & (days < np.iinfo(np.uint8).max)
        self.pool_classes()

    def pool_classes(self) -> None:
        """Learn what the series of each class have in common; once a day."""
        if len(self.classes.ticks) < len(self.mean):  # else every series is a class of its own
            for c in range(len(self.classes.ticks)):
                self._pool(c)

    def _pool(self, c: int) -> None:
        """Priors for the cold series of a class, from those with a day of history."""
        classes, old, strays = self.classes, self.history, self.history.strays
        members = np.flatnonzero((self.class_of == c) & (old.ticks >= self.grid.day_ticks))
        if len(members) < _FEWEST:
            return
        level = old.submits[members] / old.exposure[members]
        classes.level[c] = max(float(level.mean()), 1e-3)
        classes.likeness[c] = np.clip(level.mean() ** 2 / max(float(level.var()), 1e-9), 0.02, 1)
        for window in range(self.grid.windows):
            telling = members[strays.mean[window, members] > _TELLING]
            if len(telling) >= _FEWEST:
                psi, phi, batch = self.scatter(window, telling)[0]
                classes.psi[c, window] = _cold(psi, 1e3)
                classes.phi[c, window] = max(_cold(phi, 10), 1e-3)
                classes.batch[c, window] = _cold(batch, 1e4)


def baseline(capacity: int, classes: int, grid: Grid) -> Baseline:
    """Knows nothing yet."""
    return Baseline(
        grid=grid,
        history=history(capacity, grid),
        running=_running(capacity),
        classes=class_history(classes, grid),
        class_of=_zeros(capacity, np.int32),
        profile=_zeros(capacity),
        mean=_zeros(capacity),
        lately=_zeros(capacity),
    )


def columns(of: Any) -> list[tuple[Any, str, npt.NDArray[Any]]]:  # noqa: ANN401 - any dataclass of arrays
    """The arrays by series in a dataclass and the dataclasses within it: owner, name, array."""
    found = []
    for f in fields(of):
        value = getattr(of, f.name)
        if isinstance(value, np.ndarray):
            found.append((of, f.name, value))
        elif is_dataclass(value) and not isinstance(value, Grid | ClassHistory):
            found += columns(value)
    return found


def select(of: History, where: Where, grid: Grid) -> History:
    """A copy of some series' history."""
    chosen = history(0, grid)
    for (owner, name, _), (_, _, column) in zip(columns(chosen), columns(of), strict=True):
        setattr(owner, name, column[..., where].copy())
    return chosen


def put(into: History, where: Where, new: History) -> None:
    """Overwrite some series' history."""
    for (_, _, column), (_, _, values) in zip(columns(into), columns(new), strict=True):
        column[..., where] = values


def _sum_rows(ring: F32, rows: Sequence[int], here: slice, out: F32) -> None:
    np.copyto(out, ring[rows[0], here])
    for row in rows[1:]:
        out += ring[row, here]


def _cold(values: F32, most: float) -> float:
    return float(np.clip(np.quantile(values, _COLD_QUANTILE), 0, most))


def _uncertain(prior: float, days: F32) -> F32:
    """Variance of a mean known a priori to `prior` after some days of noise: 1 / (1 / prior + days / noise)."""
    result: F32 = prior / (1 + days * (prior / _SLOT_NOISE))
    return result


def _log_ratio(count: F32, mean: F32, scatter: F32) -> F32:
    """log(count / mean) that also takes small counts of variance scatter x mean, without bias to second order."""
    result: F32 = np.log((count + scatter) / (mean + scatter)) + scatter * mean / (2 * np.square(mean + scatter))
    return result


def _gain(prior: float, days: Any, noise: Any) -> Any:  # noqa: ANN401 - float32 of series or float64 of classes
    """Kalman gain of one more day of that noise."""
    left = _uncertain(prior, days)
    return left / (left + noise)
