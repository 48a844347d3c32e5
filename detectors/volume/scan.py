"""Is a series odd, now that a tick is over? Windows of several lengths against what is usual, both ways.

The tails are exact under the model, then made honest: how often a series has been odd before, and how far, says
what an odd count is worth. So a model that is somewhat wrong does not make a rate of false alarms that is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from detectors.batch import Flags, Floats, Ints
from detectors.volume.baseline import QUICK, STRAY_DAYS, WINDOWS, Baseline, Grid, baseline
from detectors.volume.dispersion import F32, I32, Spread, Told, spread, told
from detectors.volume.negative_binomial import deficit, surprise

WEEK_MS = 7 * 86_400_000
UP, DOWN = 0, 1
_ODD = 2.0
"""Surprises beyond this, one window in a hundred, tell how heavy the tails of a series really are."""
_NATURAL = 1 / np.log(10)
"""Mean of what a surprise has beyond any threshold where the model is right: an exponential, then."""
_WORTH = 10.0
"""Odd windows that the belief in the model is worth: a choice."""
_MOST_BEYOND = 3.0  # that one odd window may tell: a flood is no habit
_LIGHTEST = 0.8  # a model that is too careful is not corrected further than this
_BLOCK = 1 << 15  # series that are worked on at a time: their columns stay in the cache
_NEAR = 1.5
"""Sigmas within which nothing is odd: the surprise is below 1.2 there whatever the dispersion, and not worked out."""
_TELLING_TICKS = 3  # of an episode, that tell of the habits of a series
_RAREST = 0.7  # decades: odd windows that hardly ever came make the next no odder than that
_COOL_MS, _COOL_TICKS = 3_600_000, 3  # what has not been odd enough to go on for so long is over
_ACCEPT_TICKS = 24  # at least, before a level is taken for the new usual one


class Rise(IntEnum):
    """What may be open on a series."""

    QUICK = 0  # more than usual even today, in one tick or three
    LASTING = 1  # more than usual in the longest window
    FALL = 2  # less than usual

    @property
    def windows(self) -> slice:
        """Those that tell of it."""
        return (slice(0, QUICK), slice(QUICK, len(WINDOWS)), slice(0, len(WINDOWS)))[self]


@dataclass(slots=True, eq=False)
class Watch:
    """A set of series under watch; shapes end in [p]."""

    baseline: Baseline
    since: I32  # [3, p] number of the tick in which what is open began, by Rise; 0 = not open
    last: I32  # [3, p] and of the latest that was odd enough to go on
    paging: Flags  # [3, p] whether it was ever odd enough to page
    jumped: Flags  # [p] whether the lasting rise began with a sudden one


def watch(capacity: int, classes: int, grid: Grid) -> Watch:
    """Knows nothing yet."""
    kinds = (len(Rise), capacity)
    return Watch(
        baseline=baseline(capacity, classes, grid),
        since=np.zeros(kinds, np.int32),
        last=np.zeros(kinds, np.int32),
        paging=np.zeros(kinds, np.bool_),
        jumped=np.zeros(capacity, np.bool_),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Tested:
    """What was worked out for some series; the rest is not odd."""

    series: Ints  # [k] codes
    observed: F32  # [w, k]
    usual: F32  # [w, k] expected
    lately: F32  # [w, k] expected by the quick level
    surprise: Floats  # [2, w, k] made honest, not yet corrected for the number of windows
    raw: Floats  # [2, w, k] by the model alone

    @property
    def score(self) -> Floats:
        """[2, k]: surprise of the oddest window."""
        best: Floats = np.maximum(self.surprise.max(axis=1) - np.log10(len(WINDOWS)), 0)
        return best


@dataclass(frozen=True, slots=True)
class Scan:
    """Settings. Budgets are false alarms per series and week that are accepted."""

    pages_per_week: float = 0.002
    alerts_per_week: float = 0.03
    least_excess: float = 20.0
    """Messages more or less than expected, in any window: nobody looks at 3 against 0.1."""
    least_factor: float = 1.5
    """Times more or less than expected."""
    remain: float = 0.5
    """What is open goes on while the surprise is above this part of what opens it."""
    accept_ms: int = 86_400_000
    """What is open for so long is the new usual: the level is learnt anew."""

    def enough(self, per_week: float, grid: Grid) -> float:
        """The surprise of a tick that has so many false alarms a week."""
        return float(-np.log10(per_week * grid.tick_ms / WEEK_MS))

    def tick(self, watch: Watch, counts: F32, known: Flags, parts: Sequence[Told] = ()) -> Tested:
        """A tick is over. counts: float32[n] of the first n series; known: those that were there for all of it; parts:
        what the windows within the tick told, if the grid has any.
        """
        blocks = [
            _looked_at(watch.baseline, slice(begin, min(begin + _BLOCK, len(counts))), counts, known)
            for begin in range(0, len(counts), _BLOCK)
        ]
        tested = _tested(watch, blocks)
        self._open(watch, tested)
        slow, quick, forgive, tells = self._lessons(watch, known)
        for block in blocks:
            here = block.here
            if parts:
                watch.baseline.learn_strays(0, here, [part.of(here) for part in parts], tells[here])
            watch.baseline.learn_strays(watch.baseline.grid.tick, here, list(block.told()), tells[here])
            watch.baseline.learn_level(
                here, counts[here], block.most[0], slow=slow[here], quick=quick[here], forgive=forgive[here]
            )
        _learn_odds(watch, tested, tells)
        watch.baseline.learn_first_day(counts, slow)
        return tested

    def _open(self, watch: Watch, tested: Tested) -> None:
        """Open, go on and close what is odd, by Rise."""
        grid, series = watch.baseline.grid, tested.series
        now = watch.baseline.number
        cool = max(_COOL_TICKS, _COOL_MS // grid.tick_ms)
        enough, page = self.enough(self.alerts_per_week, grid), self.enough(self.pages_per_week, grid)
        ready = watch.baseline.has_history(series)
        low, high = np.minimum(tested.usual, tested.lately), np.maximum(tested.usual, tested.lately)
        large = np.maximum(tested.observed - high, low - tested.observed) >= self.least_excess
        large &= (tested.observed >= self.least_factor * high) | (self.least_factor * tested.observed <= low)
        for rise in Rise:
            surprise = tested.surprise[DOWN if rise is Rise.FALL else UP, rise.windows]
            score = surprise.max(axis=0) - np.log10(len(WINDOWS))
            opens = ready & (score >= enough) & large[rise.windows].any(axis=0)
            since, last, paging = watch.since[rise], watch.last[rise], watch.paging[rise]
            hot = since[series] > 0
            fresh = series[opens & ~hot]
            since[fresh] = now
            if rise is Rise.LASTING:
                watch.jumped[fresh] = now - watch.last[Rise.QUICK, fresh] <= WINDOWS[-1]
            last[series[opens | (hot & (score >= self.remain * enough))]] = now
            paging[series[opens & (score >= page)]] = True
            over = (since > 0) & (now - last >= cool)
            since[over], paging[over] = 0, False

    def _lessons(self, watch: Watch, known: Flags) -> tuple[Flags, Flags, Flags, Flags]:
        """Who may learn: habits, what is going on today, without being winsorised, and scatter; all [n]."""
        baseline, n = watch.baseline, len(known)
        now, longest = baseline.number, max(self.accept_ms // baseline.grid.tick_ms, _ACCEPT_TICKS)
        accept = np.clip(
            baseline.history.ticks[:n], _TELLING_TICKS, longest
        )  # what is new is not held on to for longer
        since = watch.since[:, :n]
        first = np.where(since > 0, since, now + 1).min(axis=0)
        lasted = now + 1 - first  # 0 = nothing is open
        forgive = lasted > accept
        turned = np.flatnonzero(lasted == accept + 1)
        baseline.accept(turned)
        slow = known & ((lasted == 0) | forgive)
        quick = known & ((since[Rise.QUICK] == 0) | forgive)  # a rise that is slow enough is not sudden by the end
        return slow, quick, forgive, known & (lasted <= _TELLING_TICKS)


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """A block of series at the end of a tick; arrays [w, n]."""

    here: slice
    observed: F32
    means: F32
    lately: F32
    most: F32
    near: Ints  # codes of those that may be odd

    def told(self) -> Iterator[Told]:
        """What the windows told of how counts stray. Those of several ticks overlap, so each is only worth its part."""
        for w, ticks in enumerate(WINDOWS):
            excess, worth = np.minimum(self.observed[w] - self.lately[w], self.most[w]), np.float32(1 / ticks)
            square = np.square(excess) * worth
            yield told(1 / ticks, self.lately[w], square, square * excess)


def _looked_at(baseline: Baseline, here: slice, counts: F32, known: Flags) -> _Looked:
    observed, means, lately = baseline.count(here, counts[here], known[here])
    floor = baseline.floor(here)
    most, odd = np.empty_like(observed), np.zeros(observed.shape[1], np.bool_)
    for w in range(len(WINDOWS)):
        usual = baseline.spread(baseline.grid.tick + w, lately[w], here)
        near = np.float32(_NEAR) * usual.sigma
        high = np.maximum(means[w], lately[w])
        odd |= observed[w] > np.maximum(high, floor * np.float32(WINDOWS[w])) + near
        odd |= observed[w] < np.minimum(means[w], lately[w]) - near
        most[w] = usual.most
    return _Looked(here, observed, means, lately, most, here.start + np.flatnonzero(odd & known[here]))


def _tested(watch: Watch, blocks: list[_Looked]) -> Tested:
    """The exact tests of those that may be odd."""
    columns = [block.near - block.here.start for block in blocks]
    observed, means, lately = (
        np.concatenate([getattr(block, name)[:, near] for block, near in zip(blocks, columns, strict=True)], axis=1)
        for name in ("observed", "means", "lately")
    )
    series = np.concatenate([block.near for block in blocks])
    raw = np.zeros((2, *observed.shape))
    for w in range(len(WINDOWS)):
        window = watch.baseline.grid.tick + w
        scatter, doubt = watch.baseline.scatter(window, series)
        high = np.maximum(np.maximum(means[w], lately[w]), watch.baseline.floor(series) * np.float32(WINDOWS[w]))
        raw[UP, w] = _rise(observed[w], spread(high, scatter, doubt))
        raw[DOWN, w] = _fall(observed[w], spread(np.minimum(means[w], lately[w]), scatter, doubt))
    return Tested(series, observed, means, lately, corrected(watch, raw, slice(None), slice(None), series), raw)


def _rise(observed: F32, usual: Spread) -> Floats:
    """-log10 P(so many or more), of those above what is near."""
    result = np.zeros(len(observed))
    over = np.flatnonzero(observed > usual.mean + np.float32(_NEAR) * usual.sigma)
    batched = usual.batched[over].astype(np.float64)
    single = usual.mean[over].astype(np.float64) - batched
    count = np.maximum(observed[over] - single, 1e-3 * observed[over])
    result[over] = surprise(count, batched, usual.batch[over] / batched)
    return result


def _fall(observed: F32, usual: Spread) -> Floats:
    """-log10 P(so few or fewer), of those below what is near."""
    result = np.zeros(len(observed))
    under = np.flatnonzero(observed < usual.mean - np.float32(_NEAR) * usual.sigma)
    means = usual.mean[under].astype(np.float64)
    result[under] = deficit(observed[under].astype(np.float64), means, usual.extra[under] / np.square(means))
    return result


def corrected(watch: Watch, raw: Floats, side: int | slice, window: int | slice, series: Ints) -> Floats:
    """Surprises by what odd windows of the series were worth so far: how often they came, how far beyond they went."""
    past = watch.baseline.history
    odd, beyond = (sums[side, window][..., series].astype(np.float64) for sums in (past.odd, past.beyond))
    windows = past.told_whole[series].astype(np.float64)
    rate = (odd + _WORTH) / (windows + _WORTH * 10**_ODD)
    scale = np.maximum((beyond + _WORTH * _NATURAL) / (odd + _WORTH) / _NATURAL, _LIGHTEST)
    often = np.maximum(np.log10(rate) + _ODD, -_RAREST)
    result: Floats = np.where(raw > _ODD, np.maximum(_ODD + (raw - _ODD) / scale - often, 0), raw)
    return result


def _learn_odds(watch: Watch, tested: Tested, tells: Flags) -> None:
    n = len(tells)
    keep = np.where(tells, watch.baseline.grid.keep(STRAY_DAYS), np.float32(1))
    watch.baseline.history.odd[..., :n] *= keep
    watch.baseline.history.beyond[..., :n] *= keep
    telling = tells[tested.series] & watch.baseline.has_history(tested.series)
    series, raw = tested.series[telling], tested.raw[..., telling]
    watch.baseline.history.odd[..., series] += raw > _ODD
    watch.baseline.history.beyond[..., series] += np.clip(raw - _ODD, 0, _MOST_BEYOND)
