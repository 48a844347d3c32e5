"""Rules `volume-flash`, `volume-step`, `volume-ramp` and `volume-silence`: does a port send far more, or far less, than
it usually does at this time of such a day?

Every closed pane is tested for what can't wait: one comparison per port and scale, the exact tail only for the few that
pass it. When a tick of 5 min is over, `scan` looks at all of it, and the ports learn. A campaign announced in the
registry excuses as many messages as it names. Not here: caps, surges of a whole class.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from detectors.batch import Flags, Floats, Ints
from detectors.ceilings import Ceiling
from detectors.contract import PANE_MS, Finding, Pane, Severity
from detectors.groups import OVERFLOW, Gone, Groups
from detectors.registry import Registry, within
from detectors.volume.baseline import WINDOWS, columns, history, put, select, widened
from detectors.volume.dispersion import F32, I32, Spread, Where, told
from detectors.volume.negative_binomial import central, surprise
from detectors.volume.ports import CLASSES, GRID, SCALES, TICK_MS, TICK_PANES, Baselines, class_of
from detectors.volume.scan import DOWN, UP, Rise, Scan, Tested, Watch, corrected, watch
from detectors.volume.wording import Exceedance, Rows, flash, rise, rows_by_port, silence

_PREFILTER_SIGMAS = np.float32(4)
"""A negative binomial with phi up to 10 has less than 1e-8 only beyond 5 sigma (test_volume.py holds it to that)."""
_MINUTE_PANES = SCALES[1]
_CENTRAL = 1.96  # sigmas of the range that is told: 95 %


@dataclass(slots=True, eq=False)
class Early:
    """What is counted before the tick is over; shapes end in [p]."""

    ring: I32  # [6, p] last panes
    sums: I32  # [3, p] of the pane, of a minute, of the tick so far
    squares: F32  # [2, p] sums of e^2 in this tick, by scale
    cubes: F32  # [2, p] of e^3
    most: F32  # [2, p] where e is winsorised
    enter: F32  # [3, p] counts that are worth an exact test
    since: I32  # [p] number of the pane in which a flash began; 0 = none
    last: I32  # [p] and of the latest that was odd enough to go on


def _early(capacity: int) -> Early:
    def zeros(dtype: npt.DTypeLike, *shape: int) -> npt.NDArray[np.generic]:
        return np.zeros((*shape, capacity), dtype)

    fine = len(GRID.parts)
    return Early(
        ring=np.zeros((_MINUTE_PANES, capacity), np.int32),
        sums=np.zeros((len(SCALES), capacity), np.int32),
        squares=np.zeros((fine, capacity), np.float32),
        cubes=np.zeros((fine, capacity), np.float32),
        most=np.zeros((fine, capacity), np.float32),
        enter=np.full((len(SCALES), capacity), np.inf, np.float32),
        since=np.zeros(capacity, np.int32),
        last=np.zeros(capacity, np.int32),
    )


@dataclass(slots=True, eq=False)
class VolumeState:
    """All that is known of the ports of one partition; shapes end in [p], indexed by port code."""

    watch: Watch = field(default_factory=lambda: watch(1024, len(CLASSES), GRID))
    early: Early = field(default_factory=lambda: _early(1024))
    met: Flags = field(default_factory=lambda: np.zeros(1024, np.bool_))  # ports that have sent in a closed pane
    settled: Flags = field(default_factory=lambda: np.zeros(1024, np.bool_))  # of them, those met before this tick
    known: int = 1  # all codes of ports that were met are below it
    next_ms: int = 0  # start of the pane to come; 0 = none yet
    unbroken_ms: int = 0  # counts are without a gap since then
    registry_version: str | None = None
    seeds: Baselines | None = None
    seed_of: dict[str, int] = field(default_factory=dict)  # seeded ports not met yet -> their column

    def reserve(self, ports: int) -> None:
        """Make room, by doubling."""
        if ports <= len(self.met):
            return
        capacity = max(ports, 2 * len(self.met))
        for owner, name, column in self._columns():
            setattr(owner, name, widened(column, capacity))

    def clear(self, ports: I32) -> None:
        """Make them ports never seen."""
        for _, _, column in self._columns():
            column[..., ports] = 0
        self.early.enter[:, ports] = np.inf

    def _columns(self) -> list[tuple[object, str, npt.NDArray[np.generic]]]:
        own = [(self, name, getattr(self, name)) for name in ("met", "settled")]
        return [*own, *columns(self.watch), *columns(self.early)]


@dataclass(frozen=True, slots=True)
class VolumeDetector:
    """Settings. Budgets and factors are choices; where a measurement stands behind one it is named."""

    name: str = "volume"
    scan: Scan = field(default_factory=Scan)
    chance_per_pane: float = 3e-8
    """Of a false flash on a port before its tick is over, all scales together: 60,480 panes a week make 0.002."""
    chance_around: float = 1e-4
    """Of the tick around a flash of 10 s or 1 min, at most: a burst that leaves it unremarkable is no flood. Old
    counts are of 5 min, so this is the scale at which a port's habits are known best."""
    least_excess: int = 20
    """Messages over the expectation, at any scale: nobody pages for 3 against 0.1."""
    least_factor: float = 2.0
    """A page is at least that many times the expectation, however regular the port."""
    critical_factor: float = 5.0
    critical_excess: int = 200
    """Critical from this factor on, when that is also so many messages beyond the expectation at the same scale."""
    cool_ms: int = 2 * TICK_MS
    """A flash that has not been seen for so long is over: each tick begins anew, and it may take most of one."""
    ramp_factor: float = 3.0
    ramp_page_ms: int = 3_600_000
    """A ramp pages when it has been above this factor for so long (contract)."""
    silent_ratio: float = 0.2
    """Of what is expected, at most, in the window that is odd: a port that sends half as much is not silent."""

    def start(self) -> VolumeState:
        return VolumeState()

    def seed(self, state: VolumeState, groups: Groups, baselines: Baselines) -> None:
        """Take over learnt baselines: now for the ports of `groups`, for all others when they are first met."""
        state.seeds = baselines
        state.seed_of = {port: row for row, port in enumerate(baselines.ports)}
        state.watch.baseline.classes = baselines.classes.copy()
        groups.vouch(baselines.ports)
        _plant(state, groups, np.flatnonzero(state.met))

    def export(self, state: VolumeState, groups: Groups) -> Baselines:
        """What was learnt so far, with the seeds that nobody has claimed yet."""
        learnt = state.watch.baseline
        codes = np.flatnonzero(learnt.history.ticks[: state.known])
        ports = [groups.ports[code] for code in codes.tolist()]
        out = history(len(ports) + len(state.seed_of), GRID)
        put(out, slice(len(ports)), select(learnt.history, codes, GRID))
        if state.seeds:
            waiting = np.fromiter(state.seed_of.values(), np.int64, len(state.seed_of))
            put(out, slice(len(ports), None), select(state.seeds.history, waiting, GRID))
        return Baselines([*ports, *state.seed_of], out, learnt.classes.copy())

    def step(self, state: VolumeState, pane: Pane, registry: Registry) -> list[Finding]:
        findings = self._catch_up(state, pane, registry)
        port_of_row = pane.groups.port_of[pane.group]
        self._meet(state, pane, port_of_row, registry)
        counts = np.bincount(port_of_row, pane.submits, state.known).astype(np.int32)
        counts[OVERFLOW] = 0
        self._count(state, counts)
        rows = rows_by_port(pane, port_of_row)
        findings += self._flashes(state, rows, registry)
        findings += self._end_tick(state, rows, registry)
        return findings

    def forget(self, state: VolumeState, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ARG002 - the protocol's
        ports = gone.ports[gone.ports < state.known]
        state.clear(ports)
        self._expect(state, ports)

    def ceilings(self, state: VolumeState) -> Mapping[str, Ceiling]:  # noqa: ARG002 - as above; its columns are those of `Groups`
        return {}

    # ---- counting

    def _catch_up(self, state: VolumeState, pane: Pane, registry: Registry) -> list[Finding]:
        """Bring the state to a pane. Panes without any row are quiet for up to a tick; a longer jump is a gap."""
        start_ms, findings = pane.start_ms, list[Finding]()
        if not state.next_ms or start_ms - state.next_ms > TICK_MS:
            early = state.early
            early.ring[:] = early.sums[:] = early.squares[:] = early.cubes[:] = 0
            state.next_ms = state.unbroken_ms = start_ms
            self._begin_tick(state)
        while state.next_ms < start_ms:
            self._count(state, np.zeros(state.known, np.int32))
            nobody = rows_by_port(pane, np.empty(0, np.int32), state.next_ms - PANE_MS)
            findings += self._end_tick(state, nobody, registry)
        return findings

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
        told_anew = np.flatnonzero(state.met) if changed else fresh
        state.watch.baseline.class_of[told_anew] = [
            class_of(groups.ports[c], registry, pane.start_ms) for c in told_anew.tolist()
        ]
        _plant(state, groups, fresh)
        self._expect(state, fresh)
        self._expect(state, slice(known, state.known))

    def _count(self, state: VolumeState, counts: I32) -> None:
        """Add the counts of the next pane, int32[known], to the sums and the residuals."""
        early, n, at = state.early, len(counts), state.next_ms // PANE_MS
        sums = early.sums[:, :n]
        sums[0] = counts
        sums[1] += counts - early.ring[at % _MINUTE_PANES, :n]
        early.ring[at % _MINUTE_PANES, :n] = counts
        if at % TICK_PANES == 0:
            sums[2] = 0
        sums[2] += counts
        state.next_ms += PANE_MS
        for scale, part in enumerate(GRID.parts):
            if state.next_ms % (SCALES[scale] * PANE_MS) == 0:
                mean = state.watch.baseline.mean[:n] * np.float32(part)
                stray = np.minimum(sums[scale].astype(np.float32) - mean, early.most[scale, :n])
                square = stray * stray
                early.squares[scale, :n] += square
                early.cubes[scale, :n] += square * stray

    def _begin_tick(self, state: VolumeState) -> None:
        state.watch.baseline.move_to(state.next_ms // TICK_MS * TICK_MS)
        state.settled = state.met.copy()
        self._expect(state, slice(0, state.known))

    def _expect(self, state: VolumeState, where: Where) -> None:
        """Expectations and thresholds of the current tick: all that can be said without the counts."""
        baseline, early = state.watch.baseline, state.early
        baseline.expect(where)
        silent = ~baseline.has_history(where)
        for scale in range(len(SCALES)):
            spread = _spread(state, scale, where)
            early.enter[scale, where] = np.where(silent, np.inf, spread.mean + self._least(spread))
            if scale < GRID.tick:
                early.most[scale, where] = spread.most

    def _least(self, spread: Spread) -> F32:
        """The least excess that is worth an exact test."""
        excess = np.maximum(_PREFILTER_SIGMAS * spread.sigma, (self.least_factor - 1) * spread.mean)
        least: F32 = np.maximum(excess, self.least_excess)
        return least

    # ---- before the tick is over

    def _flashes(self, state: VolumeState, rows: Rows, registry: Registry) -> list[Finding]:
        early, n = state.early, state.known
        over = early.sums[:, :n] > early.enter[:, :n]
        ports = np.flatnonzero(over.any(axis=0) | (early.since[:n] > 0))
        if not len(ports):
            return []
        tests = _tested(state, ports)
        planned = _planned(rows.pane, ports, registry)
        excess, enough = tests.observed - tests.expected, early.enter[:, ports] - tests.expected
        opens = over[:, ports] & (tests.surprise >= -np.log10(self.chance_per_pane)) & (excess > planned)
        opens[: GRID.tick] &= tests.surprise[GRID.tick] >= -np.log10(self.chance_around)
        hot, now = early.since[ports] > 0, rows.at_ms // PANE_MS
        goes_on = (excess >= np.maximum(self.scan.remain * enough, planned)).any(axis=0)
        holds = opens.any(axis=0) | (hot & goes_on)
        early.since[ports[holds & ~hot]] = now
        early.last[ports[holds]] = now
        early.since[ports[now - early.last[ports] >= self.cool_ms // PANE_MS]] = 0
        best = np.where(opens.any(axis=0) & ~opens, -1, tests.surprise).argmax(axis=0)
        found = [
            tests.exceedance(state, int(best[i]), i, int(early.since[ports[i]]) * PANE_MS, int(planned[i]))
            for i in np.flatnonzero(holds).tolist()
        ]
        return [flash(rows, one, self._severity(one)) for one in found]

    def _severity(self, found: Exceedance) -> Severity:
        grave = found.factor >= self.critical_factor and found.observed - found.expected >= self.critical_excess
        return Severity.CRITICAL if grave else Severity.WARNING

    # ---- when it is

    def _end_tick(self, state: VolumeState, rows: Rows, registry: Registry) -> list[Finding]:
        """Test and learn a tick that is over, if there was no gap in it, and begin the next."""
        if state.next_ms % TICK_MS:
            return []
        findings = list[Finding]()
        baseline, early, n = state.watch.baseline, state.early, state.known
        if state.unbroken_ms <= baseline.tick_ms:
            counts = early.sums[GRID.tick, :n].astype(np.float32)
            parts = [
                told(1 / share, baseline.mean[:n] * np.float32(share), early.squares[part, :n], early.cubes[part, :n])
                for part, share in enumerate(GRID.parts)
            ]
            tested = self.scan.tick(state.watch, counts, state.settled[:n], parts)
            findings = self._told(state, tested, rows, registry)
        early.squares[:] = early.cubes[:] = 0
        self._begin_tick(state)
        return findings

    def _told(self, state: VolumeState, tested: Tested, rows: Rows, registry: Registry) -> list[Finding]:
        """What is open on the ports that are odd in this tick, the most specific of it."""
        place = {int(port): i for i, port in enumerate(tested.series.tolist())}
        open_now = np.flatnonzero((state.watch.since > 0).any(axis=0))
        ports = [int(port) for port in open_now if int(port) in place]
        planned = _planned(rows.pane, np.array(ports, np.int64), registry)
        findings = []
        for port, plan in zip(ports, planned.tolist(), strict=True):
            i = place[port]
            quick, slow, fall = (int(state.watch.since[kind, port]) for kind in Rise)
            if quick or slow:
                grew = 0 < slow < quick and not state.watch.paging[Rise.QUICK, port]  # it has been told of already
                kind = Rise.QUICK if quick and not grew else Rise.LASTING
                found = self._exceeded(state, tested, i, kind, plan)
                if found and not (kind is Rise.QUICK and state.early.since[port]):  # that was told in this pane
                    findings.append(self._finding(state, rows, found, kind))
            elif fall:
                findings += self._silences(state, tested, i, rows)
        return findings

    def _exceeded(self, state: VolumeState, tested: Tested, i: int, kind: Rise, planned: int) -> Exceedance | None:
        """What the oddest window of a rise says of the i-th port; None when a campaign excuses it."""
        windows = kind.windows
        w = windows.start + int(tested.surprise[UP, windows, i].argmax())
        found = _exceedance(state, tested, w, UP, i, kind, planned)
        return found if found.observed - found.expected > planned else None

    def _finding(self, state: VolumeState, rows: Rows, found: Exceedance, kind: Rise) -> Finding:
        pages = bool(state.watch.paging[kind, found.port]) and found.factor >= self.least_factor
        if kind is Rise.QUICK:
            return flash(rows, found, self._severity(found) if pages else Severity.INFO)
        if state.watch.jumped[found.port]:
            return rise("volume-step", rows, found, Severity.WARNING if pages else Severity.INFO)
        lasts = rows.at_ms + PANE_MS - found.since_ms >= self.ramp_page_ms and found.factor >= self.ramp_factor
        return rise("volume-ramp", rows, found, Severity.WARNING if lasts else Severity.INFO)

    def _silences(self, state: VolumeState, tested: Tested, i: int, rows: Rows) -> list[Finding]:
        w = int(tested.surprise[DOWN, :, i].argmax())
        found = _exceedance(state, tested, w, DOWN, i, Rise.FALL, 0)
        if found.observed > self.silent_ratio * found.expected:
            return []
        pages = state.watch.paging[Rise.FALL, found.port] and not found.observed
        return [silence(rows, found, Severity.WARNING if pages else Severity.INFO)]


def _exceedance(state: VolumeState, tested: Tested, w: int, side: int, i: int, kind: Rise, planned: int) -> Exceedance:
    """What a window of whole ticks says of the i-th port that was tested."""
    port, baseline = int(tested.series[i]), state.watch.baseline
    choose = np.maximum if side == UP else np.minimum
    mean = choose(tested.usual[w, [i]], tested.lately[w, [i]])
    spread = baseline.spread(GRID.tick + w, mean, np.array([port]))
    variance = spread.mean + spread.extra
    since_ms = int(state.watch.since[kind, port]) * TICK_MS
    return Exceedance(
        port=port,
        observed=int(tested.observed[w, i]),
        expected=float(mean[0]),
        low=int(central(mean, variance, -_CENTRAL)[0]),
        high=int(np.ceil(central(mean, variance, _CENTRAL)[0])),
        surprise=float(max(tested.surprise[side, w, i] - np.log10(len(WINDOWS)), 0)),
        scale=WINDOWS[w] * TICK_PANES,
        since_ms=since_ms,
        planned=planned,
        port_class=int(baseline.class_of[port]),
        history_ticks=int(baseline.history.ticks[port]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Tests:
    """Exact tests of some ports before their tick is over; arrays are [scales, ports]."""

    ports: Ints
    observed: I32
    expected: F32
    variance: F32
    surprise: Floats

    def exceedance(self, state: VolumeState, scale: int, i: int, since_ms: int, planned: int) -> Exceedance:
        """What a scale says of the i-th port."""
        port = int(self.ports[i])
        mean, variance = self.expected[scale, [i]], self.variance[scale, [i]]
        baseline = state.watch.baseline
        return Exceedance(
            port=port,
            observed=int(self.observed[scale, i]),
            expected=float(mean[0]),
            low=int(central(mean, variance, -_CENTRAL)[0]),
            high=int(np.ceil(central(mean, variance, _CENTRAL)[0])),
            surprise=float(self.surprise[scale, i]),
            scale=SCALES[scale],
            since_ms=since_ms,
            planned=planned,
            port_class=int(baseline.class_of[port]),
            history_ticks=int(baseline.history.ticks[port]),
        )


def _mean(state: VolumeState, scale: int, where: Where) -> F32:
    """What a window of the scale may bring that ends in the current tick: the larger of both ticks it spans."""
    baseline = state.watch.baseline
    mean = np.maximum(np.maximum(baseline.mean[where], baseline.lately[where]), baseline.floor(where))
    if SCALES[scale] == _MINUTE_PANES:
        mean = np.maximum(mean, baseline.before(where))
    part: F32 = mean * np.float32(SCALES[scale] / TICK_PANES)
    return part


def _spread(state: VolumeState, scale: int, where: Where) -> Spread:
    """How counts of a scale scatter."""
    return state.watch.baseline.spread(scale, _mean(state, scale, where), where)


def _tested(state: VolumeState, ports: Ints) -> _Tests:
    spreads = [_spread(state, scale, ports) for scale in range(len(SCALES))]
    observed = state.early.sums[:, ports]
    expected = np.stack([spread.mean for spread in spreads])
    variance = expected + np.stack([spread.extra for spread in spreads])
    batched = np.stack([spread.batched for spread in spreads]).astype(np.float64)
    phi = np.stack([spread.batch for spread in spreads]) / batched
    raw = surprise(np.maximum(observed - (expected - batched), 1), batched, phi)
    fair = corrected(state.watch, raw, UP, 0, ports)
    return _Tests(ports, observed, expected, variance, np.maximum(fair - np.log10(len(SCALES)), 0))  # Bonferroni


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
            seed = select(state.seeds.history, slice(row, row + 1), GRID)
            put(state.watch.baseline.history, slice(code, code + 1), seed)
    if not state.seed_of:
        state.seeds = None  # all claimed: half of what a port weighs
