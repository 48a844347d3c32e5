"""Rules `volume-flash` and `volume-ramp`: does a port send far more than it usually does at this time of the week?

Every closed pane is tested against the baseline: one comparison per port, scale and pane, the exact tail only for the
few that pass it. Ticks of 5 min feed the ramps and the learning. A campaign announced in the registry excuses as many
messages as it names. Not here: silence, caps, steps, surges of a whole class.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from detectors.batch import Flags, Floats, Ints
from detectors.ceilings import Ceiling
from detectors.contract import PANE_MS, Finding, Pane, Severity
from detectors.groups import OVERFLOW, Gone, Groups
from detectors.registry import Registry, within
from detectors.volume.baseline import (
    DAY_TICKS,
    F32,
    I32,
    SCALES,
    TICK,
    TICK_MS,
    TICK_PANES,
    Baseline,
    Baselines,
    Spread,
    Where,
    baseline,
    class_of,
    port_history,
    put,
    select,
    widened,
)
from detectors.volume.negative_binomial import likelihood_ratio, quantile, surprise
from detectors.volume.wording import Exceedance, flash, ramp, rows_by_port

_PREFILTER_SIGMAS = 4.0
"""A negative binomial with phi up to 10 has less than 1e-8 only beyond 5 sigma (test_volume.py holds it to that)."""
STEADY = len(SCALES)
"""The test behind those of the scales: 5 min again, but no pane counts for more than some times its expectation."""
_TESTS = (*SCALES, TICK_PANES)
_MOST_COUNTED = 32_000  # fits int16; a port of 3,200 submits a second has no need of this test

_ACCEPTED = np.float32(1e-3)
"""What is left of the weight of the old level when a new one is accepted."""


@dataclass(slots=True, eq=False)
class VolumeState:
    """Counts, thresholds and hot ports of one partition; shapes end in [p], indexed by port code."""

    baseline: Baseline
    known: int = 1  # all codes of ports that were met are below it
    next_ms: int = 0  # start of the pane to come; 0 = none yet
    unbroken_ms: int = 0  # counts are without a gap since then
    registry_version: str | None = None
    seeds: Baselines | None = None
    seed_of: dict[str, int] = field(default_factory=dict)  # seeded ports not met yet -> their column
    ring: I32 = field(default_factory=lambda: np.zeros((TICK_PANES, 1024), np.int32))  # last 30 panes
    capped: npt.NDArray[np.int16] = field(
        default_factory=lambda: np.zeros((TICK_PANES, 1024), np.int16)
    )  # same, capped
    cap: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros(1024, np.int16))  # of one pane of this tick
    sums: I32 = field(default_factory=lambda: np.zeros((len(_TESTS), 1024), np.int32))  # 1, 6, 30 panes, 30 capped ones
    squares: F32 = field(default_factory=lambda: np.zeros((TICK, 1024), np.float32))  # sums of e^2 in this tick
    cubes: F32 = field(default_factory=lambda: np.zeros((TICK, 1024), np.float32))  # sums of e^3 in this tick
    enter: F32 = field(default_factory=lambda: np.full((len(_TESTS), 1024), np.inf, np.float32))
    most: F32 = field(default_factory=lambda: np.zeros((TICK, 1024), np.float32))  # where e is winsorised
    flash_since_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))  # 0 = not hot
    flash_last_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))
    ramp_since_ms: Ints = field(default_factory=lambda: np.zeros(1024, np.int64))  # 0 = not hot
    cusum: F32 = field(default_factory=lambda: np.zeros(1024, np.float32))
    tripled: npt.NDArray[np.int16] = field(default_factory=lambda: np.zeros(1024, np.int16))  # ticks in a row above x3
    met: Flags = field(default_factory=lambda: np.zeros(1024, np.bool_))  # ports that have sent in a closed pane
    settled: Flags = field(default_factory=lambda: np.zeros(1024, np.bool_))  # of them, those met before this tick

    def reserve(self, ports: int) -> None:
        """Make room, by doubling."""
        if ports <= self.ring.shape[1]:
            return
        capacity = max(ports, 2 * self.ring.shape[1])
        for f in fields(self):
            if isinstance(column := getattr(self, f.name), np.ndarray):
                setattr(self, f.name, widened(column, capacity))
        self.baseline.reserve(capacity)

    def clear(self, ports: I32) -> None:
        """Make them ports never seen."""
        for f in fields(self):
            if isinstance(column := getattr(self, f.name), np.ndarray):
                column[..., ports] = 0
        self.enter[:, ports] = np.inf
        self.baseline.clear(ports)


@dataclass(frozen=True, slots=True)
class VolumeDetector:
    """Settings. Budgets and factors are choices; where a measurement stands behind one it is named."""

    name: str = "volume"
    chance_per_pane: float = 3e-8
    """Of a false flash on a port, all scales together: 60,480 panes a week make 0.002 per port-week."""
    chance_around: float = 1e-4
    """Of the 5 min around a flash of 10 s or 1 min, at most: a burst that leaves them unremarkable is no flood. Old
    counts are of 5 min, so this is the scale at which a port's habits are known best."""
    least_excess: int = 20
    """Messages over the expectation, at any scale: nobody pages for 3 against 0.1."""
    least_factor: float = 2.0
    """A flash is at least that many times the expectation, however regular the port."""
    steady_factor: float = 10.0
    steady_least: int = 5
    """The steady test counts a pane up to this factor of its expectation, and always up to so many: what a burst has
    beyond says nothing of how long it lasts."""
    critical_factor: float = 5.0
    critical_excess: int = 200
    """Critical from this factor on, when that is also so many messages beyond the expectation at the same scale."""
    remain: float = 0.5
    """A flash goes on while the excess is above this part of what opens one."""
    cool_ms: int = 300_000
    """A flash that was below that for so long is over; within it, it goes on."""
    ramp_factor: float = 3.0
    """The alternative of the CUSUM, and the factor of the contract: above it for an hour a ramp pages."""
    ramp_height: float = 20.0
    """In simulated negative-binomial traffic: 0.03 false ramps per port-week, 0.55-0.96 of ramps to x4 in 2 h found."""
    ramp_ticks: int = 4
    """No tick counts for more than this part of the height: a burst is not a ramp."""
    ramp_remain: float = 1.8
    """Told as long as the last 5 min are above it: about where the CUSUM has no drift, (f - 1) / log f of a Poisson."""
    ramp_page_ms: int = 3_600_000
    accept_ms: int = 86_400_000
    """A port that is hot for so long has a new usual: its level is learnt anew."""

    def start(self) -> VolumeState:
        return VolumeState(baseline(1024))

    def seed(self, state: VolumeState, groups: Groups, baselines: Baselines) -> None:
        """Take over learnt baselines: now for the ports of `groups`, for all others when they are first met."""
        state.seeds = baselines
        state.seed_of = {port: row for row, port in enumerate(baselines.ports)}
        state.baseline.classes = baselines.classes.copy()
        groups.vouch(baselines.ports)
        _plant(state, groups, np.flatnonzero(state.met))

    def export(self, state: VolumeState, groups: Groups) -> Baselines:
        """What was learnt so far, with the seeds that nobody has claimed yet."""
        codes = np.flatnonzero(state.baseline.ports.ticks[: state.known])
        ports = [groups.ports[code] for code in codes.tolist()]
        history = port_history(len(ports) + len(state.seed_of))
        put(history, slice(len(ports)), select(state.baseline.ports, codes))
        if state.seeds:
            waiting = np.fromiter(state.seed_of.values(), np.int64, len(state.seed_of))
            put(history, slice(len(ports), None), select(state.seeds.history, waiting))
        return Baselines([*ports, *state.seed_of], history, state.baseline.classes.copy())

    def step(self, state: VolumeState, pane: Pane, registry: Registry) -> list[Finding]:
        self._catch_up(state, pane.start_ms)
        port_of_row = pane.groups.port_of[pane.group]
        self._meet(state, pane, port_of_row, registry)
        counts = np.bincount(port_of_row, pane.submits, state.known).astype(np.int32)
        counts[OVERFLOW] = 0
        self._count(state, counts)
        findings = self._flashes(state, pane, port_of_row, registry)
        findings += self._ramps(state, pane, port_of_row, registry)
        self._end_tick(state)
        return findings

    def forget(self, state: VolumeState, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ARG002 - the protocol's
        ports = gone.ports[gone.ports < state.known]
        state.clear(ports)
        self._expect(state, ports)

    def ceilings(self, state: VolumeState) -> Mapping[str, Ceiling]:  # noqa: ARG002 - as above; its columns are those of `Groups`
        return {}

    def _catch_up(self, state: VolumeState, start_ms: int) -> None:
        """Bring the state to a pane. Panes without any row are quiet for up to a tick; a longer jump is a gap."""
        if not state.next_ms or start_ms - state.next_ms > TICK_MS:
            state.ring[:] = state.capped[:] = state.sums[:] = state.squares[:] = state.cubes[:] = 0
            state.next_ms = state.unbroken_ms = start_ms
            self._begin_tick(state)
        while state.next_ms < start_ms:
            self._count(state, np.zeros(state.known, np.int32))
            self._end_tick(state)

    def _meet(self, state: VolumeState, pane: Pane, port_of_row: I32, registry: Registry) -> None:
        """Make room for the ports that appear first in this pane, and tell the classes."""
        groups, known = pane.groups, state.known
        state.known = max(state.known, int(port_of_row.max(initial=0)) + 1)
        state.reserve(state.known)
        fresh = np.unique(port_of_row[~state.met[port_of_row]])
        fresh = fresh[fresh != OVERFLOW]
        changed = registry.version != state.registry_version
        state.registry_version = registry.version
        if state.known == known and not len(fresh) and not changed:
            return
        state.clear(fresh)
        state.met[fresh] = True
        told = np.flatnonzero(state.met) if changed else fresh
        state.baseline.class_of[told] = [class_of(groups.ports[c], registry, pane.start_ms) for c in told.tolist()]
        _plant(state, groups, fresh)
        self._expect(state, fresh)
        self._expect(state, slice(known, state.known))

    def _count(self, state: VolumeState, counts: I32) -> None:
        """Add the counts of the next pane, int32[known], to the sums and the residuals."""
        n, at = len(counts), state.next_ms // PANE_MS
        sums = state.sums[:, :n]
        sums[0] = counts
        for scale in range(1, len(SCALES)):
            sums[scale] += counts - state.ring[(at - SCALES[scale]) % TICK_PANES, :n]
        capped = np.minimum(counts, state.cap[:n])
        sums[STEADY] += capped - state.capped[at % TICK_PANES, :n]
        state.ring[at % TICK_PANES, :n], state.capped[at % TICK_PANES, :n] = counts, capped
        state.next_ms += PANE_MS
        for scale in range(TICK):
            if state.next_ms % (SCALES[scale] * PANE_MS) == 0:
                mean = state.baseline.mean[:n] * np.float32(SCALES[scale])
                stray = np.minimum(sums[scale].astype(np.float32) - mean, state.most[scale, :n])
                square = stray * stray
                state.squares[scale, :n] += square
                state.cubes[scale, :n] += square * stray

    def _begin_tick(self, state: VolumeState) -> None:
        state.baseline.move_to(state.next_ms // TICK_MS * TICK_MS)
        state.settled = state.met.copy()
        self._expect(state, slice(0, state.known))

    def _expect(self, state: VolumeState, where: Where) -> None:
        """Expectations and thresholds of the current tick: all that can be said without the counts."""
        baseline = state.baseline
        baseline.expect(where)
        silent = ~baseline.has_history(where)
        for scale in range(len(SCALES)):
            mean = baseline.window_mean(scale, where)
            spread = baseline.spread(scale, mean, where)
            state.enter[scale, where] = np.where(silent, np.inf, mean + self._least(spread))
            if scale < TICK:
                state.most[scale, where] = spread.most
        cap = np.maximum(self.steady_factor * baseline.window_mean(0, where), self.steady_least)
        state.cap[where] = np.minimum(cap, _MOST_COUNTED)
        spread = baseline.steady_spread(baseline.window_mean(TICK, where), state.cap[where].astype(np.float32), where)
        state.enter[STEADY, where] = np.where(silent, np.inf, spread.mean + self._least(spread))

    def _least(self, spread: Spread) -> F32:
        """The least excess that is worth an exact test."""
        excess = np.maximum(_PREFILTER_SIGMAS * spread.sigma, (self.least_factor - 1) * spread.mean)
        least: F32 = np.maximum(excess, self.least_excess)
        return least

    def _flashes(self, state: VolumeState, pane: Pane, port_of_row: I32, registry: Registry) -> list[Finding]:
        n = state.known
        over = state.sums[:, :n] > state.enter[:, :n]
        ports = np.flatnonzero(over.any(axis=0) | (state.flash_since_ms[:n] > 0))
        if not len(ports):
            return []
        tests = _tested(state, ports)
        planned = _planned(pane, ports, registry)
        excess, enough = tests.observed - tests.expected, state.enter[:, ports] - tests.expected
        opens = over[:, ports] & (tests.surprise >= -np.log10(self.chance_per_pane)) & (excess > planned)
        opens[:TICK] &= tests.surprise[TICK] >= -np.log10(self.chance_around)
        hot = state.flash_since_ms[ports] > 0
        goes_on = (excess >= np.maximum(self.remain * enough, planned)).any(axis=0)
        holds = opens.any(axis=0) | (hot & goes_on)
        state.flash_since_ms[ports[holds & ~hot]] = pane.start_ms
        state.flash_last_ms[ports[holds]] = pane.start_ms
        over_since = pane.end_ms - state.flash_last_ms[ports]
        state.flash_since_ms[ports[over_since > self.cool_ms]] = 0
        best = np.where(opens.any(axis=0) & ~opens, -1, tests.surprise).argmax(axis=0)
        rows = rows_by_port(pane, port_of_row)
        found = [
            tests.exceedance(state, int(best[i]), i, state.flash_since_ms, int(planned[i]))
            for i in np.flatnonzero(holds).tolist()
        ]
        return [flash(rows, one, self._flash_severity(one)) for one in found]

    def _flash_severity(self, found: Exceedance) -> Severity:
        grave = found.factor >= self.critical_factor and found.observed - found.expected >= self.critical_excess
        return Severity.CRITICAL if grave else Severity.WARNING

    def _ramps(self, state: VolumeState, pane: Pane, port_of_row: I32, registry: Registry) -> list[Finding]:
        n = state.known
        rising = (state.ramp_since_ms[:n] > 0) & (state.flash_since_ms[:n] == 0)
        ports = np.flatnonzero(
            rising & (state.sums[TICK, :n] > self.ramp_remain * TICK_PANES * state.baseline.mean[:n])
        )
        if not len(ports):
            return []
        tests = _tested(state, ports)
        planned = _planned(pane, ports, registry)
        rows = rows_by_port(pane, port_of_row)
        pages = state.tripled[ports] >= self.ramp_page_ms // TICK_MS
        return [
            ramp(
                rows,
                tests.exceedance(state, TICK, i, state.ramp_since_ms, int(planned[i])),
                Severity.WARNING if pages[i] else Severity.INFO,
            )
            for i in np.flatnonzero(tests.observed[TICK] - tests.expected[TICK] > planned).tolist()
        ]

    def _end_tick(self, state: VolumeState) -> None:
        """Learn a tick that is over, if there was no gap in it, and begin the next."""
        if state.next_ms % TICK_MS:
            return
        if state.unbroken_ms <= state.baseline.tick_ms:
            self._follow_ramps(state)
            self._learn(state)
        state.squares[:] = state.cubes[:] = 0
        self._begin_tick(state)

    def _follow_ramps(self, state: VolumeState) -> None:
        n = state.known
        here, baseline, settled = slice(n), state.baseline, state.settled[:n]
        mean = baseline.mean[:n] * np.float32(TICK_PANES)
        phi = baseline.spread(TICK, mean, here).extra / np.square(mean)
        count = state.sums[TICK, :n].astype(np.float32)
        ratio = np.minimum(likelihood_ratio(count, mean, phi, self.ramp_factor), self.ramp_height / self.ramp_ticks)
        cusum = np.clip(state.cusum[:n] + ratio, 0, 2 * self.ramp_height)  # the ceiling lets a ramp end soon
        flashing = state.flash_since_ms[:n] > 0  # the more specific rule speaks of these messages
        cusum[flashing | ~settled | ~baseline.has_history(here)] = 0
        state.cusum[:n] = cusum
        hot = state.ramp_since_ms[:n] > 0
        tall = settled & (count >= self.ramp_factor * mean) & (count - mean >= self.least_excess)
        state.tripled[:n] = np.where(tall, np.minimum(state.tripled[:n] + 1, DAY_TICKS), 0)
        rises = ~hot & (cusum >= self.ramp_height) & (count - mean >= self.least_excess)
        state.ramp_since_ms[:n][rises] = state.next_ms
        state.ramp_since_ms[:n][hot & (cusum < self.ramp_height / 2)] = 0

    def _learn(self, state: VolumeState) -> None:
        n, baseline = state.known, state.baseline
        settled = state.settled[:n]
        since = np.maximum(state.flash_since_ms[:n], state.ramp_since_ms[:n])
        lasted = np.where(since > 0, state.next_ms - since, 0)
        forgive = lasted >= self.accept_ms
        turned = forgive & (lasted < self.accept_ms + TICK_MS)
        baseline.ports.submits[:n][turned] *= _ACCEPTED
        baseline.ports.exposure[:n][turned] *= _ACCEPTED
        learn = settled & ((since == 0) | forgive)
        for scale in range(TICK):
            windows = TICK_PANES // SCALES[scale]
            baseline.learn_strays(scale, state.squares[scale, :n], state.cubes[scale, :n], windows, settled)
        baseline.learn_tick(state.sums[TICK, :n].astype(np.float32), settled, learn, forgive)


@dataclass(frozen=True, slots=True, eq=False)
class _Tests:
    """Exact tests of some ports; arrays are [tests, ports]."""

    ports: Ints
    observed: I32
    expected: Floats
    batched: Floats  # part of `expected` that comes in batches
    phi: Floats  # of the batches
    surprise: Floats

    def exceedance(self, state: VolumeState, test: int, i: int, since_ms: Ints, planned: int) -> Exceedance:
        """What one test says of the i-th port. The steady one speaks of the whole 5 min; only its chance is its own."""
        port, scale = int(self.ports[i]), min(test, TICK)
        single = float(self.expected[scale, i] - self.batched[scale, i])
        batched, phi = self.batched[scale, [i]], self.phi[scale, [i]]
        return Exceedance(
            port=port,
            observed=int(self.observed[scale, i]),
            expected=float(self.expected[scale, i]),
            low=int(single + quantile(0.025, batched, phi)[0]),
            high=int(np.ceil(single + quantile(0.975, batched, phi)[0])),
            surprise=float(self.surprise[test, i]),
            scale=SCALES[scale],
            steady=test == STEADY,
            since_ms=int(since_ms[port]),
            planned=planned,
            port_class=int(state.baseline.class_of[port]),
            history_ticks=int(state.baseline.ports.ticks[port]),
        )


def _tested(state: VolumeState, ports: Ints) -> _Tests:
    baseline = state.baseline
    means = [baseline.window_mean(scale, ports) for scale in range(len(SCALES))]
    spreads = [baseline.spread(scale, mean, ports) for scale, mean in enumerate(means)]
    spreads.append(baseline.steady_spread(means[TICK], state.cap[ports].astype(np.float32), ports))
    observed, expected = state.sums[:, ports], np.stack([spread.mean for spread in spreads]).astype(np.float64)
    batched = np.stack([spread.batched for spread in spreads]).astype(np.float64)
    phi = np.stack([spread.batch for spread in spreads]) / batched
    odds = surprise(np.maximum(observed - (expected - batched), 1), batched, phi)
    return _Tests(ports, observed, expected, batched, phi, np.maximum(odds - np.log10(len(_TESTS)), 0))  # Bonferroni


def _planned(pane: Pane, ports: Ints, registry: Registry) -> Ints:
    """Recipients of the campaigns announced for now, per port: its own and its lessee's. A plan excuses no more."""
    planned: Counter[str] = Counter()
    for campaign in registry.campaigns:
        if within(pane.start_ms, campaign.since, campaign.to):
            planned[campaign.access_port or campaign.lessee_id or ""] += campaign.expected_recipients
    if not planned:
        return np.zeros(len(ports), np.int64)
    names = [pane.groups.ports[port] for port in ports.tolist()]
    leases = [registry.lease(name, pane.start_ms) for name in names]
    lessees = [lease.lessee_id or "" if lease else "" for lease in leases]
    return np.array([planned[name] + planned[lessee] for name, lessee in zip(names, lessees, strict=True)], np.int64)


def _plant(state: VolumeState, groups: Groups, ports: Ints) -> None:
    """Give ports their seeds."""
    if not state.seeds:
        return
    for code in ports.tolist():
        if (row := state.seed_of.pop(groups.ports[code], None)) is not None:
            put(state.baseline.ports, slice(code, code + 1), select(state.seeds.history, slice(row, row + 1)))
    if not state.seed_of:
        state.seeds = None  # all claimed: half of what a port weighs
