"""When do people and machines send? Day shapes, minutes of the hour, bursts, and the noise around them.

Deliberately not the model of any detector: no log-normal levels and no gamma-mixed (negative-binomial) counts, but
continuous day curves, autocorrelated noise with heavy-tailed shocks, drifts, a season, and compound-Poisson bursts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
SLICE_MS = 5 * MINUTE_MS
SHANGHAI_MS = 8 * HOUR_MS
"""Asia/Shanghai is UTC+8 all year (no summer time since 1991)."""

_SATURDAY = 5
_SEASON_FROM_MS = 1_792_425_600_000  # 2026-10-20, Asia/Shanghai: pre-sales of double-11 begin
_SEASON_TO_MS = 1_794_412_800_000  # 2026-11-12


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How one kind of traffic lives.

    `curve`: (hour, relative intensity), linear between, 0 to 24. `weekend`: its level on Saturday and Sunday.
    `on_the_hour`: weight of the full and half hour. `burst_share` of the submits comes in bursts of `burst_size`.
    `season`: what double-11 adds at its height.
    """

    curve: tuple[tuple[float, float], ...]
    weekend: float
    on_the_hour: float
    burst_share: float
    burst_size: float
    season: float = 0.0

    def at(self, hours: Floats) -> Floats:
        """Relative intensity at hours of the day; its mean over a day is 1."""
        x, y = np.array(self.curve).T
        quarter_hours = np.arange(0, 24, 0.25)
        return np.asarray(np.interp(hours % 24, x, y) / np.interp(quarter_hours, x, y).mean())

    def minutes(self) -> Floats:
        """Relative intensity of the 60 minutes of an hour; their mean is 1."""
        weights = np.ones(60)
        weights[[0, 1, 2, 30, 31, 15, 45]] += np.multiply(self.on_the_hour, [4, 2, 1, 2, 1, 0.5, 0.5])
        return np.asarray(weights / weights.mean())


RHYTHMS = {
    "people": Rhythm(
        ((0, 0.32), (1, 0.14), (2.5, 0.06), (5, 0.06), (6.5, 0.3), (8, 0.9), (9.5, 1.25), (11.5, 1.15), (12.3, 1.45),
         (13.5, 1.05), (15, 1.15), (17.5, 1.1), (19, 1.35), (20.5, 1.55), (22, 1.1), (23.2, 0.6), (24, 0.32)),
        weekend=1.05, on_the_hour=0.08, burst_share=0.03, burst_size=25,
    ),
    "payments": Rhythm(
        ((0, 0.15), (2, 0.05), (5, 0.05), (7, 0.5), (8.5, 1.0), (10, 1.3), (11.5, 1.2), (12.2, 1.6), (13.3, 1.1),
         (15, 1.2), (17, 1.15), (18.5, 1.5), (20, 1.4), (22, 0.8), (24, 0.15)),
        weekend=0.85, on_the_hour=0.4, burst_share=0.12, burst_size=90, season=0.2,
    ),
    "parcels": Rhythm(
        ((0, 0.01), (5.5, 0.01), (7, 0.3), (8.5, 1.1), (10, 1.8), (11.5, 1.6), (12.7, 0.9), (14, 1.3), (16, 1.9),
         (18, 1.7), (19.5, 1.1), (21, 0.4), (22, 0.05), (24, 0.01)),
        weekend=0.9, on_the_hour=0.15, burst_share=0.1, burst_size=40, season=0.35,
    ),
    "orders": Rhythm(
        ((0, 0.4), (1.5, 0.12), (3, 0.05), (6, 0.06), (8, 0.6), (10, 1.3), (12.4, 1.5), (14, 1.1), (16, 1.1),
         (18, 1.1), (20, 1.6), (21.5, 1.7), (23, 0.9), (24, 0.4)),
        weekend=1.1, on_the_hour=0.2, burst_share=0.08, burst_size=50, season=0.5,
    ),
    "campaigns": Rhythm(
        ((0, 0), (8.3, 0), (8.8, 0.15), (9.3, 0.5), (9.6, 2.6), (11.3, 2.4), (11.7, 0.7), (12.5, 0.4), (13.7, 0.5),
         (14.1, 2.3), (16.7, 2.2), (17.3, 0.8), (19, 0.7), (20.2, 0.3), (20.6, 0), (24, 0)),
        weekend=0.7, on_the_hour=0.8, burst_share=0.6, burst_size=160, season=0.7,
    ),
    "office": Rhythm(
        ((0, 0.01), (6.5, 0.01), (8, 0.8), (9.2, 2.0), (11, 1.9), (12.2, 0.7), (13.5, 0.8), (14.5, 1.9), (16.5, 1.8),
         (18, 0.8), (20, 0.3), (22, 0.05), (24, 0.01)),
        weekend=0.3, on_the_hour=0.8, burst_share=0.2, burst_size=60,
    ),
    "public": Rhythm(
        ((0, 0.02), (6.5, 0.02), (8.3, 1.2), (10, 2.2), (11.5, 1.5), (12.5, 0.5), (14.5, 1.6), (16.5, 1.7), (18, 0.5),
         (22, 0.05), (24, 0.02)),
        weekend=0.4, on_the_hour=0.5, burst_share=0.35, burst_size=120,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """Expected submits of every sender. Shapes: `per_minute` [senders, slices] before the minute's own weight,
    `minutes` [senders, 60], `burst_share` and `burst_size` [senders]."""

    start_ms: int
    per_minute: Floats
    minutes: Floats
    burst_share: Floats
    burst_size: Floats

    def at(self, minute_ms: int) -> Floats:
        """Expected submits of every sender in one minute, [senders]."""
        minute_of_hour = minute_ms // MINUTE_MS % 60
        rates: Floats = self.per_minute[:, self.slice_of(minute_ms)] * self.minutes[:, minute_of_hour]
        return rates

    def slice_of(self, at_ms: int) -> int:
        return (at_ms - self.start_ms) // SLICE_MS

    def bursts(self, rng: np.random.Generator, expected: Floats) -> tuple[Ints, Ints]:
        """Bursts for expected submits [senders, ...]: flat cell indices and sizes, one entry per burst.

        Sizes are Pareto with shape 2.5 (heavy, finite variance), at most six times their mean.
        """
        wide = (slice(None), *(None,) * (expected.ndim - 1))
        number = rng.poisson(expected * (self.burst_share / self.burst_size)[wide])
        cells = np.repeat(np.arange(number.size), number.ravel())
        mean = self.burst_size[cells // (number.size // len(self.burst_size))]
        sizes = np.minimum(0.6 * mean * (1 + rng.pareto(2.5, len(cells))), 6 * mean)
        return cells, np.maximum(1, sizes).astype(np.int64)


def draw_rates(rng: np.random.Generator, rhythms: Sequence[str], daily: Floats, start_ms: int, end_ms: int) -> Rates:
    """Rates of senders with the given rhythms and mean submits of a plain weekday, from start to end."""
    slices = np.arange(start_ms, end_ms, SLICE_MS) + SLICE_MS // 2
    shape = (len(rhythms), len(slices))
    per_minute = np.exp(_noise(rng, shape, (slices - start_ms) / DAY_MS)) * (daily / 1440)[:, None]
    hours = (slices + SHANGHAI_MS) % DAY_MS / HOUR_MS
    weekday = ((slices + SHANGHAI_MS) // DAY_MS + 3) % 7  # the epoch was a Thursday; Monday is 0
    is_weekend = weekday >= _SATURDAY
    season = np.clip((slices - _SEASON_FROM_MS) / (_SEASON_TO_MS - _SEASON_FROM_MS), 0, 1) ** 2
    season[slices >= _SEASON_TO_MS] = 0
    phases = rng.uniform(-0.15, 0.15, len(rhythms))  # hours
    for row, name in enumerate(rhythms):
        rhythm = RHYTHMS[name]
        per_minute[row] *= rhythm.at(hours + phases[row]) * (1 + rhythm.season * season)
        per_minute[row, is_weekend] *= rhythm.weekend
    share = np.array([RHYTHMS[name].burst_share for name in rhythms])
    wanted = np.array([RHYTHMS[name].burst_size for name in rhythms])
    return Rates(
        start_ms=start_ms,
        per_minute=per_minute,
        minutes=np.array([RHYTHMS[name].minutes() for name in rhythms]),
        burst_share=share,
        burst_size=np.clip(daily * share / 20, 2, wanted),  # a small sender fires often and little, not once a week
    )


def _noise(rng: np.random.Generator, shape: tuple[int, int], days: Floats) -> Floats:
    """Log noise [senders, slices]: a drift over weeks, days that remember the day before, a fast part that remembers
    the last hour. Shocks of the fast part are Student-t with 5 degrees of freedom."""
    senders, slices = shape
    knots = np.arange(-0.5, days[-1] + 2)
    slow = _autoregressive(rng.normal(0, 0.1, (len(knots), senders)), 0.6)
    everybody = _autoregressive(rng.normal(0, 0.03, (len(knots), 1)), 0.5)
    fast = _autoregressive(np.clip(rng.standard_t(5, (slices, senders)), -6, 6) * 0.04, 0.9)
    drift = rng.uniform(-0.12, 0.12, senders) * (days[:, None] / 21 - 0.5)
    daily = np.array([np.interp(days, knots, column) for column in (slow + everybody).T])
    return np.asarray(fast.T + daily + drift.T)


def _autoregressive(shocks: Floats, memory: float) -> Floats:
    """x[k] = memory x[k-1] + shock[k] along the first axis."""
    path = np.empty_like(shocks)
    last = np.zeros(shocks.shape[1])
    for step, shock in enumerate(shocks):
        last = path[step] = memory * last + shock
    return path
