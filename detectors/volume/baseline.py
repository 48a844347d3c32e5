"""What is usual on a port: level x day profile, and how far counts stray from it.

Every port leans on its class (the first purpose of its lease) until it has a history of its own. One learner serves
the stream and old counts: `learn` plays those through it. What it does not know: holidays, campaigns, links of ports.

Time of week is that of Asia/Shanghai, which has been UTC+8 without summer time since 1991.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from detectors.batch import Flags, Ints
from detectors.registry import Registry

F16 = npt.NDArray[np.float16]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.int8]
Where = slice | Ints | I32
"""A choice of ports (codes)."""

TICK_MS = 300_000
SLOT_MS = 1_800_000
DAY_MS = 86_400_000
DAY_TICKS = DAY_MS // TICK_MS
SLOT_TICKS = SLOT_MS // TICK_MS
HOUR_TICKS = 2 * SLOT_TICKS
SCALES = (1, 6, 30)
"""Panes that are summed up and tested together: 10 s, 1 min and 5 min. The last is the tick, the unit of learning."""
TICK = len(SCALES) - 1
TICK_PANES = SCALES[TICK]

CLASSES = ("unknown", "code", "notification", "marketing", "public")
_SHANGHAI_MS = 8 * 3_600_000
_SLOTS = DAY_MS // SLOT_MS
_WEEK_SLOTS = 2 * _SLOTS
_SLOT_DAYS = np.repeat(np.array([20, 8], np.float32), _SLOTS)  # days of its kind in four weeks

LEVEL_MEMORY_TICKS = 7 * DAY_TICKS
"""A level follows growth within a week, and spans one, so that a quiet Sunday does not lower it."""
STRAY_MEMORY_TICKS = 28 * DAY_TICKS
"""Four weeks, as the profile: dispersion is a habit of the sender."""
WINSOR_SIGMAS, WINSOR_BATCHES = 4.0, 18.0
"""An excess beyond so many sigmas and batches is learnt as if it lay there: a flood can't make itself usual.

The tail of batches falls by e per batch, and e^-18 is a chance that pages: what is below is habit, learnt in full.
"""

_CLASS_SLOT_VARIANCE = 0.5  # relative variance of a half-hour of a class that was never seen: a choice, sd 70 %
_OWN_SLOT_VARIANCE = 0.25  # of a port's half-hour about that of its class: a choice, sd 50 %
_SLOT_NOISE = 0.125  # of one half-hour of one day about its mean: a choice, sd 35 %
_LEAST_MEAN = np.float32(1e-6)  # submits per pane: one in four months, and its square is still a float32
_LEAST_PROFILE = np.float32(1e-3)
_PRIOR_SUBMITS = 50.0  # that the dispersion of the class is worth against a port's own; and, for busy ports,
_PRIOR_TICKS = 48.0  # as many ticks as well: fading with the square, for four hours of one port tell little of its days
_RATE_NOISE = np.float32(0.03)  # relative variance of the rate of 5 min, at least: a choice, sd 17 %
_TELLING_SUBMITS = 50.0  # from here on the dispersion of a port says something about its class
_COLD_QUANTILE = 0.75  # a cold port gets the dispersion of the upper quartile of its class: benefit of the doubt


def slot_of(at_ms: int) -> int:
    """Half-hour of the day in Shanghai: 0-47 on Monday to Friday, 48-95 on Saturday and Sunday."""
    day, rest = divmod(at_ms + _SHANGHAI_MS, DAY_MS)
    weekend = (day + 3) % 7 > 4  # noqa: PLR2004 - the epoch is a Thursday, Saturday is the day after day 4
    return rest // SLOT_MS + _SLOTS * weekend


def day_of(at_ms: int) -> int:
    """Days since the epoch in Shanghai."""
    return (at_ms + _SHANGHAI_MS) // DAY_MS


@dataclass(slots=True, eq=False)
class PortHistory:
    """What was learnt per port. The last axis is the port; everything is zero for a port never seen.

    Residual sums of a scale, over its windows, with e = y - mu: strayed = sum(e^2 - mu),
    skewed = sum(e^3 - mu - 3 (e^2 - mu)), mean = sum(mu), square = sum(mu^2).
    """

    submits: F32  # [p] forgetting sum of the submits of ticks, winsorised
    exposure: F32  # [p] forgetting sum of the profile at the same ticks: submits / exposure is the level
    ticks: I32  # [p] ticks learnt
    deviation: F16  # [96, p] log of own over class profile
    strayed: F32  # [3, p]
    skewed: F32  # [3, p]
    mean: F32  # [3, p]
    square: F32  # [3, p]


@dataclass(slots=True, eq=False)
class Running:
    """Sums of the half-hour that is not over yet; last axis as in PortHistory."""

    slot_submits: F32  # [p]
    slot_mean: F32  # [p]
    slot_ticks: Bytes  # [p]


_Table = TypeVar("_Table", PortHistory, Running)


def _zeros(capacity: int, dtype: npt.DTypeLike = np.float32, *shape: int) -> npt.NDArray[Any]:
    return np.zeros((*shape, capacity), dtype)


def port_history(ports: int) -> PortHistory:
    """The history of as many ports never seen."""
    return PortHistory(
        submits=_zeros(ports),
        exposure=_zeros(ports),
        ticks=_zeros(ports, np.int32),
        deviation=_zeros(ports, np.float16, _WEEK_SLOTS),
        strayed=_zeros(ports, np.float32, len(SCALES)),
        skewed=_zeros(ports, np.float32, len(SCALES)),
        mean=_zeros(ports, np.float32, len(SCALES)),
        square=_zeros(ports, np.float32, len(SCALES)),
    )


def widened(column: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    """The column with room for more ports, which read zero."""
    wide = np.zeros((*column.shape[:-1], capacity), column.dtype)
    wide[..., : column.shape[-1]] = column
    return wide


def _grow(table: _Table, capacity: int) -> None:
    for f in fields(table):
        setattr(table, f.name, widened(getattr(table, f.name), capacity))


def _filled(shape: tuple[int, ...], value: float) -> F32:
    return np.full(shape, value, np.float32)


@dataclass(slots=True, eq=False)
class ClassHistory:
    """What was learnt per class (first axis) from all its ports. Until then: a flat day and wide dispersion."""

    profile: F32 = field(default_factory=lambda: _filled((len(CLASSES), _WEEK_SLOTS), 1))
    seen: F32 = field(default_factory=lambda: _filled((len(CLASSES), _WEEK_SLOTS), 0))  # days, by what they told
    first_day: F32 = field(default_factory=lambda: _filled((len(CLASSES), _SLOTS), 0))  # submits of the first day
    ticks: I32 = field(default_factory=lambda: np.zeros(len(CLASSES), np.int32))  # ticks learnt
    level: F32 = field(default_factory=lambda: _filled((len(CLASSES),), 1))  # mean level of its ports
    likeness: F32 = field(default_factory=lambda: _filled((len(CLASSES),), 0.1))  # gamma shape of their levels
    psi: F32 = field(default_factory=lambda: _filled((len(CLASSES), len(SCALES)), 20))  # of a cold port
    batch: F32 = field(default_factory=lambda: _filled((len(CLASSES), len(SCALES)), 40))  # of a cold port
    phi: F32 = field(default_factory=lambda: _filled((len(CLASSES), len(SCALES)), 0.5))  # of a cold port

    @property
    def ready(self) -> Flags:
        """Which classes have a day of history."""
        result: Flags = self.ticks >= DAY_TICKS
        return result

    def copy(self) -> "ClassHistory":
        return ClassHistory(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


@dataclass(frozen=True, slots=True, eq=False)
class Baselines:
    """Learnt histories of ports, whatever their partition, and of the classes."""

    ports: list[str]
    history: PortHistory  # last axis as `ports`
    classes: ClassHistory


@dataclass(slots=True, eq=False)
class Baseline:
    """Expectation of one partition's ports; shapes end in [p], indexed by port code.

    A count has mean mu and variance mu + max(psi mu, phi mu^2) + doubt mu^2. psi and phi are fitted to the same
    residuals: below its usual volume the variance of a port falls with mu (batches keep their size), above it grows
    with mu^2 (noise of the rate); the larger is right at the usual volume and cautious elsewhere. `doubt` is what is
    not yet known of level and profile; it fades with history. What exceeds the variance of a Poisson comes in batches
    of some scale, fitted to the third moment; so a port that mixes single messages and rare large batches gets the
    long tail that its variance alone does not show. See `Spread`.
    """

    ports: PortHistory
    running: Running
    classes: ClassHistory
    class_of: Bytes  # [p]
    profile: F32  # [p] of the current tick, mean about 1
    mean: F32  # [p] expected submits per pane of the current tick
    before: F32  # [p] and of the tick before it
    tick_ms: int = 0  # start of the current tick; 0 = none yet

    def reserve(self, ports: int) -> None:
        """Make room, by doubling."""
        capacity = len(self.mean)
        if ports <= capacity:
            return
        capacity = max(ports, 2 * capacity)
        _grow(self.ports, capacity)
        _grow(self.running, capacity)
        self.class_of = widened(self.class_of, capacity)
        self.profile = widened(self.profile, capacity)
        self.mean = widened(self.mean, capacity)
        self.before = widened(self.before, capacity)

    def clear(self, ports: I32) -> None:
        """Make them ports never seen."""
        for table in (self.ports, self.running):
            for f in fields(table):
                getattr(table, f.name)[..., ports] = 0
        for column in (self.class_of, self.profile, self.mean, self.before):
            column[ports] = 0

    def move_to(self, tick_ms: int) -> None:
        """Begin a tick: close the half-hour and the day that it leaves behind. `expect` follows."""
        if self.tick_ms and tick_ms // SLOT_MS != self.tick_ms // SLOT_MS:
            self._close_slot(slot_of(self.tick_ms))
        if self.tick_ms and day_of(tick_ms) != day_of(self.tick_ms):
            self.pool_classes()
        self.tick_ms = tick_ms
        self.before = self.mean.copy()

    def expect(self, where: Where) -> None:
        """Work out profile and mean of the current tick."""
        slot, kind = slot_of(self.tick_ms), self.class_of[where]
        self.profile[where] = self.classes.profile[kind, slot] * np.exp(
            self.ports.deviation[slot, where].astype(np.float32)
        )
        self.mean[where] = np.maximum(self._level(where) * self.profile[where] / TICK_PANES, _LEAST_MEAN)

    def _level(self, where: Where) -> F32:
        """Mean of the gamma posterior of submits per tick; the class is the prior."""
        kind = self.class_of[where]
        shape = self.classes.likeness[kind]
        exposure = self.ports.exposure[where] + shape / self.classes.level[kind]
        level: F32 = np.divide(self.ports.submits[where] + shape, exposure, dtype=np.float32)
        return level

    def window_mean(self, scale: int, where: Where) -> F32:
        """What a window of the scale may bring that ends in the current tick: the larger of both ticks it spans."""
        mean = self.mean[where] if scale == 0 else np.maximum(self.mean[where], self.before[where])
        return mean * np.float32(SCALES[scale])

    def spread(self, scale: int, mean: F32, where: Where) -> "Spread":
        """How counts of windows with that mean scatter."""
        psi, phi, batch = self._dispersion(scale, where)
        square = np.square(mean)
        extra = np.maximum(psi * mean, phi * square) + self._doubt(psi, where) * square
        return Spread(mean, extra, np.maximum(batch, extra / mean))

    def steady_spread(self, mean: F32, cap: F32, where: Where) -> "Spread":
        """How ticks scatter of which no pane counts for more than `cap`: as ticks, with batches cut to that size.

        A cut batch brings at most cap / batch of its second moment, and for lasting through two panes at most `cap`
        of third over twice the second moment. Noise of the rate can't be cut and keeps a floor.
        """
        psi, phi, batch = self._dispersion(TICK, where)
        cut = np.minimum(cap / np.maximum(batch, np.float32(1e-6)), 1)
        square = np.square(mean)
        extra = np.maximum(psi * mean, phi * square) * cut + (self._doubt(psi, where) + _RATE_NOISE) * square
        return Spread(mean, extra, np.maximum(np.minimum(batch, cap), extra / mean))

    def _dispersion(self, scale: int, where: Where) -> tuple[F32, F32, F32]:
        """psi, phi and batch: moments of the port's residuals, shrunk to its class by pseudo-observations.

        phi = (sum((y - mu)^2 - mu) + k phi0) / (sum(mu^2) + k), psi likewise over sum(mu); on shrinking dispersion see
        Robinson and Smyth, Biostatistics 2008. batch = sum of `skewed` over twice that of `strayed`: the excess of a
        negative binomial with mean m and m theta of variance beyond m has third cumulant m + 3 m theta + 2 m theta^2.
        """
        ports, classes, kind = self.ports, self.classes, self.class_of[where]
        worth = np.square(np.float32(_PRIOR_TICKS) / np.maximum(ports.ticks[where], 1).astype(np.float32))
        strayed, mean, square = (sums[scale, where] for sums in (ports.strayed, ports.mean, ports.square))
        submits, squares = _PRIOR_SUBMITS + worth * mean, _PRIOR_SUBMITS + worth * square
        pooled = np.maximum(strayed + submits * classes.psi[kind, scale], np.float32(1e-6))
        psi = pooled / (mean + submits)
        phi = np.maximum(strayed + squares * classes.phi[kind, scale], 0) / (square + squares)
        skewed = ports.skewed[scale, where] + 2 * submits * classes.psi[kind, scale] * classes.batch[kind, scale]
        return psi, phi, np.maximum(skewed / (2 * pooled), psi)

    def _doubt(self, psi: F32, where: Where) -> F32:
        """Relative variance of the mean itself: level, class profile, own profile."""
        kind, slot = self.class_of[where], slot_of(self.tick_ms)
        level = np.reciprocal(self.classes.likeness[kind] + self.ports.submits[where] / (1 + psi))
        class_slot = _uncertain(_CLASS_SLOT_VARIANCE, self.classes.seen[kind, slot])
        own_slot = _uncertain(_OWN_SLOT_VARIANCE, self._slot_days(slot, where))
        return level + class_slot + own_slot

    def _slot_days(self, slot: int, where: Where) -> F32:
        days = self.ports.ticks[where].astype(np.float32) * (_SLOT_DAYS[slot] / np.float32(28 * DAY_TICKS))
        known: F32 = np.minimum(days, _SLOT_DAYS[slot])
        return known

    def has_history(self, where: Where) -> Flags:
        """Contract, cold start: a day of history of the port or its class."""
        result: Flags = (self.ports.ticks[where] >= DAY_TICKS) | self.classes.ready[self.class_of[where]]
        return result

    def learn_strays(self, scale: int, squares: F32, cubes: F32, windows: int, known: Flags) -> None:
        """Add the sums of e^2 and e^3 over that many windows of the current tick, [n]; e is winsorised. `known` as in
        `learn_tick`.

        Hot ports are not left out: what a port does daily becomes its habit within some days.
        """
        n, ports = len(squares), self.ports
        keep = np.float32(1 - 1 / STRAY_MEMORY_TICKS)
        learn = known & self.classes.ready[self.class_of[:n]]  # before, the profile is flat and all is stray
        mean = self.mean[:n] * np.float32(SCALES[scale])
        strayed = squares - windows * mean
        skewed = cubes - windows * mean - 3 * strayed
        for sums, new in (
            (ports.strayed, strayed),
            (ports.skewed, skewed),
            (ports.mean, windows * mean),
            (ports.square, windows * np.square(mean)),
        ):
            column = sums[scale, :n]
            np.copyto(column, column * keep + new, where=learn)

    def learn_tick(self, submits: F32, known: Flags, learn: Flags, forgive: Flags) -> None:
        """Learn the current tick of the first n ports from their submits, [n].

        known: ports that were there for all of the tick. learn: of them, those that are not frozen. forgive: learn
        these as they are, not winsorised.
        """
        n = len(submits)
        here = slice(n)
        mean = self.mean[here] * np.float32(TICK_PANES)
        most = self.spread(TICK, mean, here).most
        cold = ~self.classes.ready[self.class_of[here]]
        usual = np.minimum(submits, np.where(cold | forgive, np.float32(np.inf), mean + most))
        keep = np.float32(1 - 1 / LEVEL_MEMORY_TICKS)
        for sums, new in ((self.ports.submits, usual), (self.ports.exposure, self.profile[here])):
            np.copyto(sums[here], sums[here] * keep + new, where=learn)
        stray = np.minimum(submits - mean, most)
        self.learn_strays(TICK, np.square(stray), stray**3, 1, known)
        self.ports.ticks[here] += learn
        self.running.slot_submits[here] += usual * learn
        self.running.slot_mean[here] += mean * learn
        self.running.slot_ticks[here] += learn
        self._learn_first_day(usual * learn, learn)

    def _learn_first_day(self, submits: F32, learn: Flags) -> None:
        """The first day of a class is summed up as it is; then it becomes the profile of all days."""
        classes, kind = self.classes, self.class_of[: len(submits)]
        cold = ~classes.ready
        classes.first_day[:, slot_of(self.tick_ms) % _SLOTS] += cold * np.bincount(kind, submits, len(CLASSES))
        classes.ticks += np.bincount(kind[learn], minlength=len(CLASSES)) > 0
        for c in np.flatnonzero(cold & classes.ready):
            day = classes.first_day[c] + np.float32(1)
            classes.profile[c] = np.tile(day / day.mean(), 2)
            classes.seen[c] = 0.5  # of one kind of day one day, of the other none
            self._pool(int(c))

    def _close_slot(self, slot: int) -> None:
        """Learn a half-hour of the profiles: first the class's, then what is the port's own."""
        running, classes, kind = self.running, self.classes, self.class_of
        mean = np.maximum(running.slot_mean, np.float32(1e-6))
        psi, phi, _ = self._dispersion(TICK, slice(None))
        ratio = running.slot_submits / mean
        full = (running.slot_ticks == SLOT_TICKS) & classes.ready[kind]
        tells = np.where(full & (self.ports.ticks >= DAY_TICKS), 1 / (phi + (1 + psi) / mean), 0)
        weight = np.bincount(kind, tells, len(CLASSES))
        told = np.flatnonzero(weight)
        factor = np.ones(len(CLASSES))
        noise = _SLOT_NOISE + 1 / weight[told]
        days = np.minimum(classes.seen[told, slot], _SLOT_DAYS[slot])
        gain = _gain(_CLASS_SLOT_VARIANCE, days, noise)
        factor[told] += gain * (np.bincount(kind, tells * ratio, len(CLASSES))[told] / weight[told] - 1)
        classes.profile[:, slot] = np.maximum(classes.profile[:, slot] * factor, _LEAST_PROFILE)
        classes.seen[told, slot] += _SLOT_NOISE / noise
        own = _gain(_OWN_SLOT_VARIANCE, self._slot_days(slot, slice(None)), _SLOT_NOISE + (1 + psi) / mean)
        step = own * _log_ratio(running.slot_submits, mean * factor[kind], 1 + psi)
        deviation = np.clip(self.ports.deviation[slot] + step, -3, 3)
        np.copyto(self.ports.deviation[slot], deviation.astype(np.float16), where=full)
        running.slot_submits[:] = running.slot_mean[:] = running.slot_ticks[:] = 0

    def pool_classes(self) -> None:
        """Learn what the ports of each class have in common; once a day."""
        for c in range(len(CLASSES)):
            self._pool(c)

    def _pool(self, c: int) -> None:
        """Priors for the cold ports of a class, from those with a day of history."""
        members = np.flatnonzero((self.class_of == c) & (self.ports.ticks >= DAY_TICKS))
        classes, ports = self.classes, self.ports
        if len(members) < 5:  # noqa: PLR2004 - a quartile of fewer is one port's habit
            return
        level = ports.submits[members] / ports.exposure[members]
        classes.level[c] = max(float(level.mean()), 1e-3)
        classes.likeness[c] = np.clip(level.mean() ** 2 / max(float(level.var()), 1e-9), 0.02, 1)
        for scale in range(len(SCALES)):
            told = members[ports.mean[scale, members] > _TELLING_SUBMITS]
            if len(told) >= 5:  # noqa: PLR2004 - as above
                strayed, skewed, mean, square = (
                    sums[scale, told] for sums in (ports.strayed, ports.skewed, ports.mean, ports.square)
                )
                busy = square / mean >= np.median(square / mean)  # phi rules the busy ports, psi the others
                classes.psi[c, scale] = _cold(strayed / mean, 0, 1e3)
                classes.phi[c, scale] = _cold((strayed / square)[busy], 1e-3, 10)
                classes.batch[c, scale] = _cold(skewed / np.maximum(2 * strayed, 1), 0, 1e4)


@dataclass(frozen=True, slots=True, eq=False)
class Spread:
    """Distribution of counts about their mean: single messages, and a share of the mean that comes in batches.

    The batches are a negative binomial with the share as its mean and with all of the variance. For
    batch = extra / mean the share is 1, and the whole count is the usual negative binomial.
    """

    mean: F32
    extra: F32  # variance beyond that of a Poisson
    batch: F32  # >= extra / mean

    @property
    def sigma(self) -> F32:
        sigma: F32 = np.sqrt(self.mean + self.extra)
        return sigma

    @property
    def most(self) -> F32:
        """The excess beyond which counts are winsorised."""
        most: F32 = np.maximum(WINSOR_SIGMAS * self.sigma, WINSOR_BATCHES * self.batch)
        return most

    @property
    def batched(self) -> F32:
        """The share of the mean that comes in batches, in messages."""
        result: F32 = np.divide(self.mean + self.extra, 1 + self.batch, dtype=np.float32)
        return result


def _cold(values: F32, least: float, most: float) -> float:
    return float(np.clip(np.quantile(values, _COLD_QUANTILE), least, most))


def _uncertain(prior: float, days: F32) -> F32:
    """Variance of a mean known a priori to `prior` after some days of noise: 1 / (1 / prior + days / noise)."""
    result: F32 = prior / (1 + days * (prior / _SLOT_NOISE))
    return result


def _log_ratio(count: F32, mean: Any, scatter: F32) -> Any:  # noqa: ANN401 - float64 by way of the classes
    """log(count / mean) that also takes small counts of variance scatter x mean, without bias to second order."""
    return np.log((count + scatter) / (mean + scatter)) + scatter * mean / (2 * np.square(mean + scatter))


def _gain(prior: float, days: F32, noise: Any) -> Any:  # noqa: ANN401 - float32 of ports or float64 of classes
    """Kalman gain of one more day of that noise."""
    left = _uncertain(prior, days)
    return left / (left + noise)


def baseline(capacity: int) -> Baseline:
    """Knows nothing yet."""
    return Baseline(
        ports=port_history(capacity),
        running=Running(
            slot_submits=_zeros(capacity),
            slot_mean=_zeros(capacity),
            slot_ticks=_zeros(capacity, np.int8),
        ),
        classes=ClassHistory(),
        class_of=_zeros(capacity, np.int8),
        profile=_zeros(capacity),
        mean=_zeros(capacity),
        before=_zeros(capacity),
    )


def class_of(access_port: str, registry: Registry, at_ms: int) -> int:
    """Index into CLASSES: the first purpose of the lease in effect."""
    lease = registry.lease(access_port, at_ms)
    return CLASSES.index(lease.purposes[0]) if lease and lease.purposes else 0


def select(history: PortHistory, where: Where) -> PortHistory:
    """A copy of some ports' history."""
    return PortHistory(**{f.name: getattr(history, f.name)[..., where].copy() for f in fields(history)})


def put(history: PortHistory, where: Where, columns: PortHistory) -> None:
    """Overwrite some ports' history."""
    for f in fields(history):
        getattr(history, f.name)[..., where] = getattr(columns, f.name)


def learn(access_port: Sequence[str], start_ms: Ints, submits: Ints, registry: Registry) -> Baselines:
    """Baselines from old counts: rows in any order, each a port's submits in the five minutes from start_ms.

    A port's missing rows after its first are zeros; a tick without any row is a gap. Raises ValueError for a start
    that is no multiple of five minutes.

    Finer counts than 5 min are not in there. Until the stream has shown better (an hour's worth), all that is beyond
    Poisson is taken as batches shorter than a pane: that is the widest the finer scales can be.
    """
    if len(start_ms) and (odd := start_ms[start_ms % TICK_MS != 0]).size:
        raise ValueError(f"start_ms {odd[0]} is not a multiple of {TICK_MS}")
    ports = list(dict.fromkeys(access_port))
    code_of = {port: code for code, port in enumerate(ports)}
    codes = np.fromiter(map(code_of.__getitem__, access_port), np.int64, len(access_port))
    order = np.argsort(start_ms, kind="stable")
    codes, submits = codes[order], submits[order]
    if not ports:
        return Baselines(ports, port_history(0), ClassHistory())
    ticks, begins = np.unique(start_ms[order], return_index=True)
    learner = baseline(len(ports))
    learner.class_of[:] = [class_of(port, registry, int(ticks[-1])) for port in ports]
    born, never = np.zeros((2, len(ports)), np.bool_)
    everybody = np.ones(len(ports), np.bool_)
    for tick_ms, rows in zip(ticks.tolist(), np.split(np.arange(len(codes)), begins[1:]), strict=True):
        born[codes[rows]] = True
        counts = np.bincount(codes[rows], submits[rows], len(ports)).astype(np.float32)
        learner.move_to(tick_ms)
        learner.expect(slice(None))
        learner.learn_tick(counts, everybody, born, never)
    learner.move_to(int(ticks[-1]) + DAY_MS)
    _guess_fine_scales(learner.ports)
    learner.pool_classes()
    return Baselines(ports, learner.ports, learner.classes)


def _guess_fine_scales(ports: PortHistory) -> None:
    share = np.minimum(1, HOUR_TICKS / np.maximum(ports.ticks, 1)).astype(np.float32)
    for scale in range(TICK):
        ports.strayed[scale] = share * ports.strayed[TICK]
        ports.skewed[scale] = share * ports.skewed[TICK]
        ports.mean[scale] = share * ports.mean[TICK]
        ports.square[scale] = share * ports.square[TICK] * (SCALES[scale] / TICK_PANES)
