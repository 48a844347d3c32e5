"""The laws of the house, over all detectors of the catalog at once: Hypothesis chooses traffic and cuts."""

import copy
from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.batch import SubmitBatch, empty_batch
from detectors.contract import Alert, Pane
from detectors.pipeline import Outcome, PartitionState, Pipeline
from detectors.registry import Caps, Enterprise, Filing, PortLease, Registry
from detectors.throttle import ThrottlePolicy
from detectors.volume.detector import VolumeDetector
from detectors.volume.ports import DAY_TICKS, TICK_MS, Baselines, learn
from streams.records import port_counts
from streams.worker.image import pack, unpack
from tests.rows import START_MS, Row, batch

PIPELINE = Pipeline(remembered_ids=256, throttle=ThrottlePolicy(lasts_ms=60_000, most_share_ratio=1.0))
PORTS = ("10690010", "10690020", "10655030", "106575550400")
CAPS = (None, Caps(per_minute=2_000, per_day=15_000), Caps(hours=(9, 16)))
MONTHS_AGO_MS = START_MS - 60 * 86_400_000
REGISTRY = Registry(
    ports=tuple(
        PortLease(
            access_port=port,
            lessee_id=f"E{n}",
            allow_self_extension=n == 1,
            customer_type="enterprise",
            caps=CAPS[n],
        )
        for n, port in enumerate(PORTS[:3])
    ),
    filings=(
        Filing(access_port=PORTS[0], extension="01", signature="青禾银行", enterprise_id="E0", last_traffic=START_MS),
        Filing(access_port=PORTS[1], signature="蓝鲸物流", enterprise_id="E1", last_traffic=MONTHS_AGO_MS),
        Filing(access_port=PORTS[2], extension="02", signature="云杉教育", enterprise_id="E2", state=2),
        Filing(access_port=PORTS[2], extension="01", signature="赤松贷款", enterprise_id="E3"),
    ),
    enterprises=tuple(Enterprise(enterprise_id=f"E{n}", name=f"企业{n}") for n in range(5)),
    version="1",
)
_TICKS = np.repeat(np.arange(-2 * DAY_TICKS, 0), len(PORTS))
HISTORY = learn(PORTS * (2 * DAY_TICKS), START_MS + _TICKS * TICK_MS, 300 + _TICKS % 7, REGISTRY)
"""One submit a second on every port: without a history no port could be flooded."""
NAMES = ("青禾银行", "蓝鲸物流", "云杉教育", "赤松贷款", "无名商城", None)


@st.composite
def traffic(draw: st.DrawFn) -> list[Row]:
    """Some minutes of four ports: floods, foreign names, stragglers, redeliveries, wrong clocks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, 1_500))
    at_ms = np.sort(rng.integers(0, draw(st.sampled_from([30_000, 600_000, 3_000_000])), n))
    at_ms = np.where(rng.random(n) < 0.02, at_ms - rng.integers(0, 90_000, n), at_ms)  # stragglers
    at_ms[n // 2 :] += draw(st.sampled_from([0, 0, 320_000, 7 * 3_600_000]))  # silence, then on
    flood = draw(st.sampled_from([0, 300]))
    at_ms = np.concatenate([at_ms, rng.integers(20_000, 25_000, flood)])
    port = np.concatenate([rng.integers(0, 4, n), np.zeros(flood, int)])
    order = np.argsort(at_ms + rng.integers(0, 3_000, len(at_ms)), kind="stable")
    rows = []
    for i, k in enumerate(order.tolist()):
        name = NAMES[int(rng.integers(0, len(NAMES)))]
        stamped = rng.random() < 0.8
        skewed = int(at_ms[k]) + (int(rng.integers(-2, 3)) * 86_400_000 * 5 if rng.random() < 0.01 else 0)
        rows.append(
            Row(
                id=i if rng.random() > 0.03 else int(rng.integers(0, i + 1)),
                at_ms=skewed,
                received_ms=int(at_ms[k]) + 500 if stamped else None,
                port=PORTS[port[k]],
                extension=("01", "02", None)[int(rng.integers(0, 3))],
                account=("a", "b")[int(rng.integers(0, 2))],
                text=f"【{name}】您的验证码{i}" if name else ("没有签名的文本" if rng.random() < 0.5 else None),
                recipients=int(rng.integers(1, 100)),
                is_retry=bool(rng.random() < 0.05),
            )
        )
    return rows


def started(history: Baselines = HISTORY) -> PartitionState:
    volume = VolumeDetector()
    state = PIPELINE.start("sms.submit.v1", 0)
    volume.seed(state.detectors[volume.name], state.groups, history)
    return state


def spoken(outcomes: list[Outcome]) -> dict[str, list[Any]]:
    """All that was said, apart from when it was noticed."""

    def counts(panes: list[Pane], *, amends: bool) -> list[dict[str, Any]]:
        return [record for pane in panes for record in port_counts(pane, amends=amends)]

    def unnoticed(alert: Alert) -> Alert:
        return replace(alert, detected_event_ms=0)

    return {
        "panes": [c for outcome in outcomes for c in counts(outcome.panes, amends=False)],
        "amendments": [c for outcome in outcomes for c in counts(outcome.amendments, amends=True)],
        "alerts": [unnoticed(alert) for outcome in outcomes for alert in outcome.alerts],
        "commands": [command for outcome in outcomes for command in outcome.commands],
    }


def run(rows: list[Row], cuts: list[int], *, snapshots: bool = False) -> tuple[dict[str, list[Any]], PartitionState]:
    state = started()
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    outcomes = []
    for start, stop in pairwise(bounds):
        outcomes.append(PIPELINE.step(state, batch(rows[start:stop], first_offset=start), REGISTRY))
        if snapshots:
            state = unpack([pack(state)], PIPELINE)
    outcomes.append(PIPELINE.step(state, empty_batch(START_MS + 86_400_000), REGISTRY))
    return spoken(outcomes), state


CUTS = st.lists(st.integers(0, 1_800), max_size=12)


@settings(deadline=None, max_examples=60)
@given(traffic(), CUTS)
def test_split_findings_do_not_depend_on_where_batches_were_cut(rows: list[Row], cuts: list[int]) -> None:
    whole, whole_state = run(rows, [])
    parts, parts_state = run(rows, cuts)
    assert parts == whole
    assert parts_state.tally == whole_state.tally


@settings(deadline=None, max_examples=25)
@given(traffic(), CUTS)
def test_snapshot_a_checkpoint_in_mid_stream_changes_nothing(rows: list[Row], cuts: list[int]) -> None:
    assert run(rows, cuts, snapshots=True)[0] == run(rows, cuts)[0]


@settings(deadline=None, max_examples=25)
@given(traffic())
def test_replay_the_same_input_gives_the_same_findings(rows: list[Row]) -> None:
    assert run(rows, [])[0] == run(rows, [])[0]


@settings(deadline=None, max_examples=25)
@given(traffic(), st.integers(0, 3_600_000))
def test_idle_an_empty_batch_only_moves_time(rows: list[Row], floor: int) -> None:
    state = started()
    first = PIPELINE.step(state, batch(rows), REGISTRY)
    before = copy.deepcopy(state.tally)
    second = PIPELINE.step(state, empty_batch(START_MS + floor), REGISTRY)
    third = PIPELINE.step(state, empty_batch(START_MS + 86_400_000), REGISTRY)
    assert spoken([first, second, third]) == run(rows, [])[0]
    assert state.tally == before


@settings(deadline=None, max_examples=25)
@given(traffic())
def test_input_a_batch_is_neither_changed_nor_kept(rows: list[Row]) -> None:
    given_batch, twin = batch(rows), batch(rows)
    state = started()
    PIPELINE.step(state, given_batch, REGISTRY)
    for name in SubmitBatch.__dataclass_fields__:
        assert np.array_equal(getattr(given_batch, name), getattr(twin, name)), name
    for column in (given_batch.event_time_ms, given_batch.offset, given_batch.recipients, given_batch.event_id):
        column[:] = 0
    for texts in (given_batch.access_port, given_batch.text, given_batch.account):
        texts.clear()
    outcome = PIPELINE.step(state, empty_batch(START_MS + 86_400_000), REGISTRY)
    assert spoken([outcome])["panes"] == run(rows, [])[0]["panes"][-len(spoken([outcome])["panes"]) :] or not rows


@settings(deadline=None, max_examples=25)
@given(traffic())
def test_relabel_renaming_ports_renames_findings_and_nothing_else(rows: list[Row]) -> None:
    names = {port: f"1068{n:06d}" for n, port in enumerate(PORTS)}
    renamed_registry = Registry(
        ports=tuple(replace(lease, access_port=names[lease.access_port]) for lease in REGISTRY.ports),
        filings=tuple(replace(filing, access_port=names[filing.access_port]) for filing in REGISTRY.filings),
        enterprises=REGISTRY.enterprises,
        version="1",
    )

    def said(rows: list[Row], registry: Registry, back: dict[str, str]) -> list[tuple[Any, ...]]:
        called = {old: new for new, old in back.items()}
        state = started(replace(HISTORY, ports=[called[port] for port in HISTORY.ports]))
        outcomes = [PIPELINE.step(state, batch(rows), registry)]
        outcomes.append(PIPELINE.step(state, empty_batch(START_MS + 86_400_000), registry))
        return [
            (
                alert.rule,
                alert.state,
                alert.severity,
                back[alert.access_port or ""],
                alert.extension,
                alert.last_seen_ms,
            )
            for outcome in outcomes
            for alert in outcome.alerts
        ]

    same = {port: port for port in PORTS}
    back = {new: old for old, new in names.items()}
    renamed = [replace(row, port=names[row.port]) for row in rows]
    assert said(renamed, renamed_registry, back) == said(rows, REGISTRY, same)


def test_silence_quiet_and_lawful_traffic_gives_no_findings() -> None:
    rows = [
        Row(id=n, at_ms=n * 1_000, received_ms=n * 1_000 + 300, extension="01", text=f"【青禾银行】余额变动{n}元")
        for n in range(7_200)
    ]
    assert run(rows, [])[0]["alerts"] == []


def test_a_flood_is_among_what_the_laws_are_about() -> None:
    rows = [Row(id=n, at_ms=n * 1_000 if n < 60 else 60_000 + n, extension="01") for n in range(3_000)]
    said = run(rows, [])[0]
    assert [(alert.rule, alert.state) for alert in said["alerts"]] == [
        ("volume-flash", "open"),
        ("volume-flash", "resolved"),
    ]
    assert [command.action for command in said["commands"]] == ["throttle", "release"]


def test_bound_state_stays_under_its_ceilings_whatever_the_key_space() -> None:
    pipeline = Pipeline(group_limit=500, port_limit=100, remembered_ids=1_024, episode_limit=20)
    state = pipeline.start("sms.submit.v1", 0)
    sizes = []
    for turn in range(8):
        rows = [
            Row(id=turn * 2_000 + n, at_ms=turn * 60_000 + n, port=f"1069{turn:03d}{n:05d}", extension=str(n))
            for n in range(2_000)
        ]
        pipeline.step(state, batch(rows), REGISTRY)
        sizes.append(len(pack(state)))
    tables = pipeline.ceilings(state)
    assert {name for name, table in tables.items() if table.held > table.limit} == set()
    assert tables["unleased_ports"] == (25, 25, 15_975)
    assert tables["open_alerts"] == (10, 20, 15)
    assert sizes[-1] <= 1.2 * sizes[2]


def test_limits_are_among_what_the_laws_are_about() -> None:
    rows = [Row(id=n, at_ms=n * 1_000, port=PORTS[1], recipients=50) for n in range(400)]
    rows += [Row(id=400 + n, at_ms=7 * 3_600_000 + n, port=PORTS[2]) for n in range(30)]
    opened = {alert.rule for alert in run(rows, [])[0]["alerts"] if alert.state == "open"}
    assert opened >= {"cap-minute", "cap-day", "dormant-wakes", "quiet-hours"}


@pytest.mark.parametrize("detector", PIPELINE.detectors, ids=lambda detector: detector.name)
def test_a_detector_is_a_frozen_value(detector: Any) -> None:
    assert hash(detector) == hash(copy.deepcopy(detector))
    with pytest.raises(FrozenInstanceError):
        detector.name = "other"
