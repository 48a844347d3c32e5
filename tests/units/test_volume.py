"""The volume detector against traffic made here: compound Poisson, day curves, bursts; none of it the model's own."""

import copy
import pickle
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import gamma, nbinom

from detectors.contract import PANE_MS, Finding, Pane, Severity
from detectors.groups import Groups
from detectors.registry import Campaign, PortLease, Registry
from detectors.volume.baseline import baseline, columns
from detectors.volume.detector import VolumeDetector, VolumeState
from detectors.volume.negative_binomial import central, deficit, surprise
from detectors.volume.ports import DAY_TICKS, GRID, TICK_MS, TICK_PANES, Baselines, learn
from tests.rows import Row, batch

Counts = npt.NDArray[np.int64]

DAY_MS = 86_400_000
MONDAY_MS = 1_788_710_400_000  # 2026-09-07 00:00 in Shanghai, a Monday; no holiday near it
PORTS = ("10690001", "10690002", "10690003", "10690004", "10690005", "10690006")
LEASES = Registry(ports=tuple(PortLease(access_port=port, purposes=("code",)) for port in PORTS), version="1")


def groups_of(ports: Sequence[str] = PORTS) -> Groups:
    """One group per port, on extension 01; group code = port code = place + 1."""
    groups = Groups()
    meet(groups, ports)
    return groups


def meet(groups: Groups, ports: Sequence[str]) -> None:
    rows = [Row(id=place, port=port, extension="01", text=None) for place, port in enumerate(ports)]
    groups.intern(batch(rows), Registry())


def pane(groups: Groups, start_ms: int, submits: Sequence[int] | Counts, retries: int = 0) -> Pane:
    counts = np.asarray(submits, np.int64)
    sent = np.flatnonzero(counts)
    return Pane(
        start_ms=start_ms,
        watermark_ms=start_ms + 2 * PANE_MS,
        group=(sent + 1).astype(np.int32),
        submits=counts[sent],
        retries=np.full(len(sent), retries, np.int64),
        recipients=counts[sent],
        segments=counts[sent],
        first_offset=sent * 1_000,
        groups=groups,
    )


CLOCK = baseline(1, 1, GRID)


def slot_of(at_ms: int) -> int:
    CLOCK.tick_ms = at_ms
    return CLOCK.slot


def shape(at_ms: int) -> float:
    """Office hours on weekdays, a third of it at the weekend; mean over the week about 1."""
    slot = slot_of(at_ms)
    return (2.2 if 9 <= slot % 24 < 20 else 0.3) * (1.0 if slot < 24 else 0.33)


def drawn(rng: np.random.Generator, expected: npt.NDArray[np.float64], batch: int, share: float) -> Counts:
    """Compound Poisson: that share of the messages comes in batches of one size."""
    return rng.poisson(expected * (1 - share)) + rng.poisson(expected * share / batch) * batch


def history(rates: Sequence[float], days: int, batch: int = 1, share: float = 1) -> Baselines:
    """Baselines of PORTS with that many submits per 5 min on average, for days that end on MONDAY_MS."""
    rng = np.random.default_rng(7)
    starts = MONDAY_MS + np.arange(-days * DAY_TICKS, 0) * TICK_MS
    expected = np.array([shape(start) for start in starts.tolist()])[:, None] * np.array(rates)
    submits = drawn(rng, expected, batch, share)
    ticks, ports = (place.tolist() for place in np.nonzero(submits))
    return learn([PORTS[port] for port in ports], starts[ticks], submits[ticks, ports], LEASES)


def seeded(baselines: Baselines, groups: Groups) -> tuple[VolumeDetector, VolumeState]:
    detector = VolumeDetector()
    state = detector.start()
    detector.seed(state, groups, baselines)
    return detector, state


def run(
    detector: VolumeDetector,
    state: VolumeState,
    groups: Groups,
    counts: Counts,
    start_ms: int,
    registry: Registry = LEASES,
) -> list[Finding]:
    """Findings of consecutive panes; counts are [panes, ports]."""
    findings: list[Finding] = []
    for place, row in enumerate(counts):
        findings += detector.step(state, pane(groups, start_ms + place * PANE_MS, row), registry)
    return findings


def traffic(
    rates: Sequence[float] | npt.NDArray[np.float64],
    start_ms: int,
    panes: int,
    seed: int = 1,
    batch: int = 1,
    share: float = 1,
) -> Counts:
    """[panes, ports] with those mean submits per 5 min."""
    rng = np.random.default_rng(seed)
    times = start_ms + np.arange(panes) * PANE_MS
    expected = np.array([shape(at) for at in times.tolist()])[:, None] * np.array(rates) / TICK_PANES
    return drawn(rng, expected, batch, share)


RATES = (300.0, 100.0, 30.0, 30.0, 10.0, 3.0)
TEN = MONDAY_MS + 10 * 3_600_000


@pytest.fixture(scope="module")
def warm() -> Baselines:
    return history(RATES, 28)


# --- the distribution


@pytest.mark.parametrize(
    ("count", "mean", "phi"), [(840, 96, 0.05), (3, 0.01, 0.5), (150, 100, 1e-3), (400, 1, 2.0), (21, 0.2, 30.0)]
)
def test_surprise_is_the_exact_tail(count: int, mean: float, phi: float) -> None:
    shape = 1 / phi
    expected = -nbinom.logsf(count - 1, shape, shape / (shape + mean)) / np.log(10)
    assert surprise(np.array([float(count)]), np.array([mean]), np.array([phi]))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "mean", "phi"), [(9_000, 96, 0.01), (200_000, 1_000, 1e-4), (5_000, 2, 1e-6)])
def test_surprise_goes_on_where_the_tail_underflows(count: int, mean: float, phi: float) -> None:
    shape, many = 1 / phi, np.arange(count, count + 20_000, dtype=float)
    terms = gammaln(many + shape) - gammaln(shape) - gammaln(many + 1)
    terms += shape * np.log(shape / (shape + mean)) + many * np.log(mean / (shape + mean))
    exact = -np.logaddexp.reduce(terms) / np.log(10)
    got = surprise(np.array([float(count)]), np.array([mean]), np.array([phi]))[0]
    assert exact > 280
    assert exact - np.log10(2) <= got <= exact + 1e-6


@given(
    mean=st.floats(1e-4, 1e5),
    phi=st.floats(0, 100),
    counts=st.tuples(st.integers(1, 10**7), st.integers(1, 10**7)).map(sorted),
)
def test_surprise_is_finite_and_grows_with_the_count(mean: float, phi: float, counts: list[int]) -> None:
    low, high = surprise(np.array(counts, float), np.full(2, mean), np.full(2, phi))
    assert np.isfinite(high)
    assert 0 <= low <= high + 1e-6


@pytest.mark.parametrize(("count", "mean", "phi"), [(40, 96, 0.05), (0, 12, 0.5), (70, 100, 1e-3), (30, 400, 0.2)])
def test_deficit_is_the_exact_lower_tail(count: int, mean: float, phi: float) -> None:
    shape = 1 / phi
    expected = -nbinom.logcdf(count, shape, shape / (shape + mean)) / np.log(10)
    assert deficit(np.array([float(count)]), np.array([mean]), np.array([phi]))[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "mean", "phi"), [(0, 5_000, 1e-6), (900, 5_000, 1e-6), (100, 90_000, 1e-3)])
def test_deficit_goes_on_where_the_tail_underflows(count: int, mean: float, phi: float) -> None:
    shape, few = 1 / phi, np.arange(count + 1, dtype=float)
    terms = gammaln(few + shape) - gammaln(shape) - gammaln(few + 1)
    terms += shape * np.log(shape / (shape + mean)) + few * np.log(mean / (shape + mean))
    exact = -np.logaddexp.reduce(terms) / np.log(10)
    got = deficit(np.array([float(count)]), np.array([mean]), np.array([phi]))[0]
    assert exact > 280
    assert exact - np.log10(2) <= got <= exact + 1e-6


@pytest.mark.parametrize(("mean", "variance"), [(96.0, 200.0), (1_000.0, 40_000.0), (20.0, 20.0)])
def test_the_central_range_is_that_of_a_gamma_distribution(mean: float, variance: float) -> None:
    law = gamma(mean**2 / variance, scale=variance / mean)
    for sigmas, chance in ((-1.96, 0.025), (1.96, 0.975)):
        got = central(np.array([mean], np.float32), np.array([variance], np.float32), sigmas)[0]
        assert got == pytest.approx(law.ppf(chance), rel=0.02)


@given(mean=st.floats(1e-3, 1e4), phi=st.floats(0, 10))
def test_the_prefilter_hides_no_flash(mean: float, phi: float) -> None:
    at_four_sigma = mean + max(20, 4 * np.sqrt(mean + phi * mean**2))
    chance = surprise(np.array([at_four_sigma]), np.array([mean]), np.array([phi]))[0]
    assert chance < 8 or at_four_sigma == mean + 20


# --- what is usual


@pytest.mark.parametrize(
    ("hours", "slot"), [(0, 0), (1.5, 1), (23.5, 23), (4 * 24 + 9, 9), (5 * 24, 24), (6 * 24 + 23.5, 47), (7 * 24, 0)]
)
def test_slots_are_hours_in_shanghai(hours: float, slot: int) -> None:
    assert slot_of(MONDAY_MS + int(hours * 3_600_000)) == slot


def expected_of(detector: VolumeDetector, state: VolumeState, at_ms: int) -> npt.NDArray[np.float64]:
    """Expected submits in 5 min of each of PORTS, as a detector sees them that comes back after a gap."""
    after = copy.deepcopy(state)
    detector.step(after, pane(groups_of(), at_ms, [1] * len(PORTS)), LEASES)
    return after.watch.baseline.mean[1 : len(PORTS) + 1].astype(np.float64)


@pytest.mark.parametrize("hours", [3, 10, 15, 5 * 24 + 10, 6 * 24 + 3])
def test_history_teaches_level_and_profile(warm: Baselines, hours: float) -> None:
    detector, state = seeded(warm, groups_of())
    at_ms = MONDAY_MS + int(hours * 3_600_000)
    assert expected_of(detector, state, at_ms)[:4] == pytest.approx(np.array(RATES[:4]) * shape(at_ms), rel=0.2)


def test_a_port_keeps_its_own_profile() -> None:
    starts = MONDAY_MS + np.arange(-28 * DAY_TICKS, 0) * TICK_MS
    expected = np.array([shape(start) for start in starts.tolist()])[:, None] * np.full(len(PORTS), 30.0)
    expected[:, 5] = 30  # day and night, where the others of its class keep office hours
    submits = np.random.default_rng(7).poisson(expected)
    ticks, ports = (place.tolist() for place in np.nonzero(submits))
    baselines = learn([PORTS[port] for port in ports], starts[ticks], submits[ticks, ports], LEASES)
    detector, state = seeded(baselines, groups_of())
    for hour in (2, 10, 16, 22):
        at_ms = MONDAY_MS + hour * 3_600_000
        expected_now = [30 * shape(at_ms)] * 5 + [30]
        assert expected_of(detector, state, at_ms) == pytest.approx(expected_now, rel=0.4)


def test_a_flood_in_the_history_hardly_moves_the_expectation() -> None:
    clean, starts = history(RATES, 28), MONDAY_MS + np.arange(-28 * DAY_TICKS, 0) * TICK_MS
    rng = np.random.default_rng(7)
    expected = np.array([shape(start) for start in starts.tolist()])[:, None] * np.array(RATES)
    submits = rng.poisson(expected)
    submits[-DAY_TICKS + 120 : -DAY_TICKS + 144, 1] *= 50  # two hours on the last day
    ticks, ports = (place.tolist() for place in np.nonzero(submits))
    flooded = learn([PORTS[port] for port in ports], starts[ticks], submits[ticks, ports], LEASES)
    before, after = (expected_of(*seeded(baselines, groups_of()), TEN)[1] for baselines in (clean, flooded))
    assert after < 1.25 * before


def test_history_must_be_aligned() -> None:
    with pytest.raises(ValueError, match=r"start_ms 1788710400001 is not a multiple of 300000"):
        learn([PORTS[0]], np.array([MONDAY_MS + 1]), np.array([5]), LEASES)


def test_no_history_is_no_baseline() -> None:
    nothing = np.empty(0, np.int64)
    assert learn([], nothing, nothing, LEASES).ports == []


# --- flashes


def flood(counts: Counts, port: int, first: int, last: int, factor: int) -> Counts:
    counts[first:last, port] = counts[first:last, port] * factor
    return counts


def test_quiet_traffic_says_nothing(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    assert run(detector, state, groups, traffic(RATES, MONDAY_MS, 8_640), MONDAY_MS) == []


def test_a_tenfold_flood_pages_within_minutes_and_ends(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    counts = flood(traffic(RATES, TEN, 300), 1, 60, 120, 10)
    findings = run(detector, state, groups, counts, TEN)
    assert {(finding.rule, finding.access_port) for finding in findings} == {("volume-flash", PORTS[1])}
    opened = (findings[0].at_ms - TEN) // PANE_MS
    closed = (findings[-1].at_ms - TEN) // PANE_MS
    assert 60 <= opened < 72
    assert 120 <= closed < 120 + TICK_PANES
    assert [finding.at_ms for finding in findings] == [TEN + k * PANE_MS for k in range(opened, closed + 1)]
    assert max(finding.severity.rank for finding in findings) == Severity.CRITICAL.rank


def test_evidence_can_be_checked_by_hand(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    counts = np.zeros((90, len(PORTS)), np.int64)
    counts[:, 0] = 1
    counts[60:, 1] = 400
    finding = [one for one in run(detector, state, groups, counts, TEN) if one.rule == "volume-flash"][-1]
    evidence = finding.evidence
    assert evidence["scale_s"] == 300
    assert evidence["observed"] == 30 * 400
    assert evidence["expected"] == pytest.approx(220, rel=0.2)
    assert evidence["low"] < evidence["expected"] < evidence["high"] < 1_000
    assert finding.size == pytest.approx(12_000 / evidence["expected"], rel=1e-3)
    assert evidence["factor"] == round(finding.size, 2)
    assert evidence["expected_per_s"] == pytest.approx(evidence["expected"] / 300, rel=1e-2)
    assert evidence["since_ms"] == TEN + 60 * PANE_MS
    assert evidence["baseline_days"] == pytest.approx(28, abs=0.1)
    assert evidence["top_full_ports"] == [{"extension": "01", "submits": 400}]
    assert finding.offsets == (1_000,)
    assert finding.summary.en.startswith("sudden: observed 12,000 in 5 min, expected 2")
    assert finding.summary.en.endswith("for 300 s")
    assert finding.summary.zh.startswith("突增：5分钟内12,000条，预期2")
    assert [reason.en for reason in finding.ruled_out] == [
        "retries: 0 in the last 10 s, none of them counted",
        "campaign: none announced for now",
    ]


def test_a_flood_does_not_become_usual_while_it_lasts(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    run(detector, state, groups, flood(traffic(RATES, TEN, 2_160), 1, 60, 2_100, 20), TEN)
    later = TEN + DAY_MS
    calm = seeded(warm, groups_of())
    assert expected_of(detector, state, later)[1] == pytest.approx(expected_of(*calm, later)[1], rel=0.05)


def test_after_a_day_the_new_level_is_accepted(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    fourfold = np.array([1, 4, 1, 1, 1, 1])
    first = run(detector, state, groups, traffic(np.array(RATES) * fourfold, TEN, 8_640), TEN)
    assert first
    assert {finding.access_port for finding in first} == {PORTS[1]}
    settled = TEN + DAY_MS
    run(detector, state, groups, traffic(np.array(RATES) * fourfold, settled, 4_320, seed=2), settled)
    calm = settled + 4_320 * PANE_MS
    assert run(detector, state, groups, traffic(np.array(RATES) * fourfold, calm, 2_160, seed=3), calm) == []


def test_habitual_batches_do_not_page_but_a_steady_flood_does() -> None:
    rates = [30.0] * len(PORTS)
    groups = groups_of()
    detector, state = seeded(history(rates, 28, batch=40, share=0.2), groups)
    counts = traffic(rates, TEN, 2_160, batch=40, share=0.2)
    assert run(detector, state, groups, counts, TEN) == []
    later = TEN + 2_160 * PANE_MS
    steady = traffic(rates, later, 60, seed=3, batch=40, share=0.2)
    steady[:, 2] += 16  # eightfold, and never half a batch at once
    findings = run(detector, state, groups, steady, later)
    assert {finding.access_port for finding in findings} == {PORTS[2]}


def test_an_announced_campaign_excuses_what_it_names(warm: Baselines) -> None:
    def found(recipients: int) -> list[Finding]:
        groups = groups_of()
        detector, state = seeded(warm, groups)
        campaign = Campaign(
            since=TEN + 600_000, to=TEN + 1_200_000, expected_recipients=recipients, access_port=PORTS[1]
        )
        registry = Registry(ports=LEASES.ports, campaigns=(campaign,), version="2")
        return run(detector, state, groups, flood(traffic(RATES, TEN, 120), 1, 60, 120, 10), TEN, registry)

    assert found(5_000) == []
    exceeded = found(500)
    assert {finding.evidence["planned"] for finding in exceeded} == {500}
    assert exceeded[0].ruled_out[1].en == "campaign: announced 500, exceeded"


# --- ramps


def test_a_ramp_is_told_and_pages_when_it_has_lasted() -> None:
    rates = [30.0] * len(PORTS)  # in batches of 10: too restless for a flash at fourfold
    groups = groups_of()
    detector, state = seeded(history(rates, 28, batch=10), groups)
    counts = traffic(rates, TEN, 1_260, seed=5, batch=10)
    rise = 1 + np.minimum(np.arange(1_260) / 360, 1) * 3  # to fourfold within an hour, then it stays
    counts[:, 4] = np.random.default_rng(5).poisson(rise * 3.0 * shape(TEN) / TICK_PANES) * 10
    findings = run(detector, state, groups, counts, TEN)
    ramps = [finding for finding in findings if finding.rule == "volume-ramp"]
    assert {finding.access_port for finding in findings} == {PORTS[4]}
    assert ramps[0].severity == Severity.INFO
    assert ramps[0].at_ms - TEN < 5_400_000
    paged = [finding.at_ms for finding in ramps if finding.severity == Severity.WARNING]
    assert paged
    assert paged[0] - TEN >= 3_600_000 + 2_400_000 - PANE_MS  # above x3 only from minute 40 on, and then for an hour
    assert ramps[0].summary.en.startswith("rising: observed ")


def test_one_port_is_not_told_as_flash_and_ramp_at_once(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    findings = run(detector, state, groups, flood(traffic(RATES, TEN, 900), 0, 60, 900, 10), TEN)
    moments = [finding.at_ms for finding in findings]
    assert {finding.rule for finding in findings} == {"volume-flash"}
    assert len(moments) == len(set(moments))


# --- time, cold start, growth


def test_nothing_is_said_before_a_day_of_history() -> None:
    groups = groups_of()
    detector = VolumeDetector()
    state = detector.start()
    assert run(detector, state, groups, flood(traffic(RATES, TEN, 300), 0, 200, 300, 100), TEN) == []


def test_a_day_of_the_stream_is_history_enough() -> None:
    groups = groups_of()
    detector = VolumeDetector()
    state = detector.start()
    assert run(detector, state, groups, traffic(RATES, MONDAY_MS, 8_640), MONDAY_MS) == []
    second = MONDAY_MS + DAY_MS
    found = run(detector, state, groups, flood(traffic(RATES, second, 4_100, seed=2), 0, 4_000, 4_100, 100), second)
    assert {(finding.rule, finding.access_port) for finding in found} == {("volume-flash", PORTS[0])}


def test_a_gap_teaches_no_zeros(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    run(detector, state, groups, traffic(RATES, MONDAY_MS, 30), MONDAY_MS)
    ticks = state.watch.baseline.history.ticks.copy()
    back = MONDAY_MS + 9 * 3_600_000
    found = run(detector, state, groups, traffic(RATES, back, 60), back)
    assert found == []
    assert (state.watch.baseline.history.ticks[1:7] - ticks[1:7]).tolist() == [2] * 6
    assert expected_of(detector, state, TEN)[:3] == pytest.approx(np.array(RATES[:3]) * shape(TEN), rel=0.2)


def test_panes_without_rows_are_quiet_time_up_to_a_tick(warm: Baselines) -> None:
    def state_after(counts: Counts) -> VolumeState:
        groups = groups_of()
        detector, state = seeded(warm, groups)
        for place in np.flatnonzero(counts.any(axis=1)).tolist():
            detector.step(state, pane(groups, TEN + place * PANE_MS, counts[place]), LEASES)
        return state

    counts = traffic(RATES, TEN, 61)

    counts[10:39] = 0  # 29 panes, over the end of a tick
    after = state_after(counts)
    assert (after.next_ms, after.unbroken_ms) == (TEN + 61 * PANE_MS, TEN)
    assert after.early.sums[2, 1] == counts[60:61, 0].sum()


def test_a_port_met_later_finds_its_seed(warm: Baselines) -> None:
    groups = Groups()
    detector, state = seeded(warm, groups)
    meet(groups, (PORTS[5], PORTS[0]))
    detector.step(state, pane(groups, TEN, [1, 0]), LEASES)
    assert state.known == 2
    detector.step(state, pane(groups, TEN + PANE_MS, [0, 10]), LEASES)
    assert state.watch.baseline.mean[2] == pytest.approx(RATES[0] * shape(TEN), rel=0.2)


def test_export_gives_back_what_was_seeded(warm: Baselines) -> None:
    groups = groups_of(PORTS[::-1][:4])
    detector, state = seeded(warm, groups)
    detector.step(state, pane(groups, TEN, [1, 1, 1, 1]), LEASES)
    out = detector.export(state, groups)
    assert sorted(out.ports) == sorted(PORTS)
    rows = [out.ports.index(port) for port in warm.ports]
    for (_, name, got), (_, _, seeded_with) in zip(columns(out.history), columns(warm.history), strict=True):
        np.testing.assert_array_equal(got[..., rows], seeded_with, err_msg=name)
    assert (out.classes.profile == warm.classes.profile).all()


def test_the_overflow_is_nobody(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    groups.port_of[1] = 0
    counts = traffic(RATES, TEN, 60)
    counts[:, 0] = 100_000
    assert run(detector, state, groups, counts, TEN) == []


def test_growth_doubles_and_a_port_costs_less_than_600_bytes() -> None:
    ports = [str(10_690_000_000 + k) for k in range(5_000)]
    groups = groups_of(ports)
    detector = VolumeDetector()
    state = detector.start()
    detector.step(state, pane(groups, TEN, [1] * 10), Registry())
    capacity = len(state.watch.baseline.mean)
    detector.step(state, pane(groups, TEN + PANE_MS, [1] * 5_000), Registry())
    assert (capacity, len(state.watch.baseline.mean)) == (1_024, 5_001)
    assert len(pickle.dumps(state)) / 5_001 < 600


# --- laws


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 239))
def test_a_snapshot_goes_on_as_if_nothing_had_happened(warm: Baselines, cut: int) -> None:
    counts = flood(traffic(RATES, TEN, 240), 1, 60, 120, 10)
    whole = run(*seeded(warm, groups_of()), groups_of(), counts, TEN)
    groups = groups_of()
    detector, state = seeded(warm, groups)
    first = run(detector, state, groups, counts[:cut], TEN)
    revived = pickle.loads(pickle.dumps(state))  # noqa: S301 - our own bytes
    assert first + run(detector, revived, groups, counts[cut:], TEN + cut * PANE_MS) == whole


def test_renaming_ports_renames_findings_only() -> None:
    names = {port: port[:-1] + str(9 - int(port[-1])) for port in PORTS}  # the order of the names turns round
    renamed = Registry(
        ports=tuple(PortLease(access_port=names[port], purposes=("code",)) for port in PORTS), version="1"
    )
    counts = flood(traffic(RATES, TEN, 120), 1, 60, 120, 10)
    starts = MONDAY_MS + np.arange(-2 * DAY_TICKS, 0) * TICK_MS
    submits = np.random.default_rng(3).poisson(np.ones((len(starts), 1)) * RATES)
    ticks, ports = (place.tolist() for place in np.nonzero(submits))

    def found(registry: Registry, of: Sequence[str]) -> list[Finding]:
        groups = groups_of(of)
        baselines = learn([of[port] for port in ports], starts[ticks], submits[ticks, ports], registry)
        return run(*seeded(baselines, groups), groups, counts, TEN, registry)

    plain, other = found(LEASES, PORTS), found(renamed, [names[port] for port in PORTS])
    assert plain
    assert [(f.rule, names[f.access_port], f.size, f.summary, f.evidence) for f in plain] == [
        (f.rule, f.access_port, f.size, f.summary, f.evidence) for f in other
    ]


def test_a_pane_is_left_as_it_was(warm: Baselines) -> None:
    groups = groups_of()
    detector, state = seeded(warm, groups)
    given_pane = pane(groups, TEN, [5, 4, 3, 2, 1, 1], retries=3)
    before = pickle.dumps(given_pane)
    detector.step(state, given_pane, LEASES)
    assert pickle.dumps(given_pane) == before
