"""Memory is bounded and poison is inert: hostile rows against tables so small that they overflow all the time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.batch import empty_batch
from detectors.compliance.quiet_hours import QuietHoursDetector
from detectors.forgetting import Retention
from detectors.panes import OpenPanes
from detectors.pipeline import Outcome, PartitionState, Pipeline
from detectors.registry import Caps, Filing, PortLease, Registry
from detectors.signature.detector import SignatureDetector
from detectors.sublet.detector import SubletDetector
from detectors.volume.baseline import columns
from detectors.volume.caps import CapsDetector
from detectors.volume.detector import VolumeDetector
from detectors.volume.dormancy import DormancyDetector
from detectors.volume.ports import DAY_TICKS, TICK_MS, learn
from streams.records import port_counts
from streams.worker.codec import ARROW_STREAM, NDJSON, decode
from streams.worker.image import pack, unpack
from tests.rows import START_MS, Row, batch

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
LAWFUL = ("10655010", "10655020", "10655030", "10655040")
LATECOMER = "10655050"
LEASED = tuple(f"106900{n}0" for n in range(10, 20))
LONG_AGO_MS = START_MS - 60 * DAY_MS
REGISTRY = Registry(
    ports=tuple(
        PortLease(access_port=port, lessee_id=f"E{n}", caps=Caps(per_minute=10**6, per_day=10**8, hours=(10, n + 11)))
        for n, port in enumerate(LEASED)
    ),
    filings=(
        Filing(access_port=LEASED[0], extension="01", signature="青禾银行", enterprise_id="E0"),
        Filing(access_port=LEASED[0], extension="01", signature="蓝鲸物流", enterprise_id="E0"),
        Filing(
            access_port=LEASED[1], extension="02", signature="云杉教育", enterprise_id="E1", last_traffic=LONG_AGO_MS
        ),
        Filing(access_port=LEASED[2], extension="02", signature="赤松贷款", enterprise_id="E2", last_traffic=START_MS),
    ),
    version="1",
)
NARROW = Pipeline(
    detectors=(
        VolumeDetector(),
        SignatureDetector(offence_limit=6, rule_limit=3, port_limit=2, name_limit=2, names_limit=5),
        SubletDetector(case_limit=1, tenant_limit=2, tenants_limit=3),
        CapsDetector(),
        DormancyDetector(asleep_limit=1),
        QuietHoursDetector(),
    ),
    retention=Retention(
        group_ms=40 * MINUTE_MS,
        port_ms=2 * HOUR_MS,
        newcomer_ms=20 * MINUTE_MS,
        spared_ms=MINUTE_MS,
        history_ms=10 * MINUTE_MS,
    ),
    remembered_ids=64,
    group_limit=16,
    port_limit=8,
    episode_limit=4,
)
NAMES = ("青禾银行", "蓝鲸物流", "云杉教育", "赤松贷款", "\udc80", "a\0b", None)


def started() -> PartitionState:
    state = NARROW.start("sms.submit.v1", 0)
    state.open = OpenPanes(ahead_limit=2, turn_rows=5)
    return state


def hostile(seed: int) -> list[Row]:
    """Ten leased ports among dozens that nobody leased; clocks from 1970 to 2100, fast ones, late ones, leaps."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 700))
    at_ms = np.sort(rng.integers(0, rng.choice([40_000, HOUR_MS, 5 * HOUR_MS]), n))
    at_ms[n // 2 :] += rng.choice([0, 2 * HOUR_MS, 3 * DAY_MS])
    stamped = rng.choice([0.0, 0.9, 1.0])
    rows = []
    for i, now_ms in enumerate(at_ms.tolist()):
        event_ms = int(
            now_ms
            + rng.choice([0, 50 * MINUTE_MS, -HOUR_MS, -6 * DAY_MS, 2 * DAY_MS], p=[0.8, 0.07, 0.07, 0.03, 0.03])
            + rng.integers(-20_000, 20_000)
        )
        if rng.random() < 0.01:
            event_ms = int(rng.choice([1_000 - START_MS, 4_102_444_800_000 - START_MS]))
        name = NAMES[int(rng.integers(0, len(NAMES)))]
        rows.append(
            Row(
                id=int(rng.integers(0, max(1, 3 * n))),
                at_ms=event_ms,
                received_ms=now_ms if rng.random() < stamped else None,
                port=str(rng.choice(LEASED)) if rng.random() < 0.4 else f"1068{int(rng.integers(0, 60)):04d}",
                extension=("01", "02", None, str(int(rng.integers(0, 99))))[int(rng.integers(0, 4))],
                account=f"a{int(rng.integers(0, 3))}",
                text=f"【{name}】您的验证码{i}" if name else None,
                recipients=int(rng.integers(1, 10**6)),
                segments=int(rng.integers(1, 255)),
                is_retry=bool(rng.random() < 0.1),
            )
        )
    return rows


def run(rows: list[Row], cuts: list[int], *, snapshots: bool) -> tuple[list[tuple[str, Any]], PartitionState]:
    """All that was said, apart from when it was noticed, and the state at the end."""
    state, outcomes = started(), list[Outcome]()
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    for start, stop in pairwise(bounds):
        outcomes.append(NARROW.step(state, batch(rows[start:stop], first_offset=start), REGISTRY))
        over = {name: table for name, table in NARROW.ceilings(state).items() if table.held > table.limit}
        assert over == {}
        assert state.tally.difference == 0
        assert len(state.open.late) <= 5 + stop - start
        if snapshots:
            state = unpack([pack(state)], NARROW)
    outcomes.append(NARROW.step(state, empty_batch(state.clock_ms + DAY_MS), REGISTRY))
    said: list[tuple[str, Any]] = []
    for kind in ("panes", "amendments"):
        said += [
            (kind, count)
            for outcome in outcomes
            for pane in getattr(outcome, kind)
            for count in port_counts(pane, amends=kind == "amendments")
        ]
    said += [("alerts", replace(alert, detected_event_ms=0)) for outcome in outcomes for alert in outcome.alerts]
    return said, state


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 700), max_size=10))
def test_split_also_where_tables_overflow_and_forget(seed: int, cuts: list[int]) -> None:
    rows = hostile(seed)
    whole, whole_state = run(rows, [], snapshots=False)
    parts, parts_state = run(rows, cuts, snapshots=True)
    assert parts == whole
    assert parts_state.tally == whole_state.tally
    assert parts_state.groups.keys == whole_state.groups.keys
    assert parts_state.groups.turned_away == whole_state.groups.turned_away
    assert NARROW.ceilings(parts_state) == NARROW.ceilings(whole_state)


def test_the_laws_are_about_tables_that_overflow_and_forget() -> None:
    lost = Counter[str]()
    names = set[str]()
    for seed in range(40):
        said, state = run(hostile(seed), [200], snapshots=False)
        names |= {record["access_port"] for kind, record in said if kind == "panes"}
        lost.update({name: table.lost for name, table in NARROW.ceilings(state).items()})
    assert {name for name in NARROW.ceilings(started()) if not lost[name]} == set()
    assert len(names) > 40  # in a table of 8


GOOD = b'{"event_id":"e1","event_time_ms":1762736400000,"access_port":"10690010","text":"%s"}'
VALUES = st.one_of(
    st.none(),
    st.binary(max_size=300),
    st.builds(lambda cut: (GOOD % "【青禾银行】您好".encode())[:cut], st.integers(0, 120)),
    st.sampled_from(
        [
            GOOD % (b"x" * 10_000_000),
            GOOD % b"\\ud800",
            GOOD % b"\xed\xa0\x80",
            b"\n".join([GOOD % b"a", b"", GOOD[:40], GOOD % b"b"]),
            GOOD.replace(b"1762736400000", b"0") % b"a",
            GOOD.replace(b"1762736400000", b"4102444800000") % b"a",
            b"[" * 60_000,
        ]
    ),
)
CONTENT_TYPES = st.sampled_from([b"", b"application/json", NDJSON, ARROW_STREAM, b"\xff"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(VALUES, CONTENT_TYPES, st.integers(-1, 2**62)), max_size=12))
def test_any_bytes_are_accounted_for(records: list[tuple[bytes | None, bytes, int]]) -> None:
    state = started()
    decoded = decode(
        [value for value, _, _ in records],
        np.arange(len(records), dtype=np.int64),
        np.array([log_time_ms for _, _, log_time_ms in records], np.int64),
        {n: content_type for n, (_, content_type, _) in enumerate(records) if content_type},
    )
    NARROW.step(state, decoded.batch, REGISTRY, Counter(str(reject.reason) for reject in decoded.rejects))
    assert state.tally.difference == 0
    assert state.tally.submits_in == decoded.submits_in
    NARROW.step(state, empty_batch(state.clock_ms + DAY_MS), REGISTRY)


# --- an attack takes nothing from the lawful


MARKET = Registry(
    ports=tuple(
        PortLease(access_port=port, lessee_id=port, purposes=("code",), caps=Caps(per_minute=40, per_day=1_000))
        for port in (*LAWFUL, LATECOMER)
    ),
    filings=tuple(
        Filing(access_port=port, extension="01", signature=f"企业{port[-2:]}", enterprise_id=port)
        for port in (*LAWFUL, LATECOMER)
    ),
    version="1",
)
TOWN = Pipeline(
    detectors=(
        VolumeDetector(),
        SignatureDetector(offence_limit=40, rule_limit=20, port_limit=4),
        SubletDetector(),
        CapsDetector(),
    ),
    retention=Retention(spared_ms=5 * MINUTE_MS),
    remembered_ids=4_096,
    group_limit=400,
    port_limit=80,
    episode_limit=20,
)
MINUTES = 40
_SPREAD = 0x9E3779B97F4A7C15  # ids are hashes: neighbours would crowd the table of those that were seen


def lawful() -> list[Row]:
    """A port that is flooded, one with a name that nobody filed, one that is sublet, one that is first seen late."""
    rows = []
    for second in range(0, MINUTES * 60, 2):
        for port in (*LAWFUL, *([LATECOMER] if second > 1_200 else [])):
            name = f"企业{port[-2:]}"
            if port == LAWFUL[1] and second % 10 == 0:
                name = "无名商城"
            if port == LAWFUL[2] and second % 6 == 0:
                name = f"企业{LAWFUL[second // 6 % 2][-2:]}"
            many = 30 if port == LAWFUL[0] and 900 <= second < 960 else 1
            rows += [
                Row(id=0, at_ms=1_000 * second, port=port, extension="01", text=f"【{name}】您好") for _ in range(many)
            ]
    return [replace(row, id=n) for n, row in enumerate(rows)]


ATTACKS: dict[str, Callable[[int], Row]] = {
    "ports": lambda n: Row(id=0, port=f"1068{n:08d}"),
    "extensions": lambda n: Row(id=0, port=LAWFUL[3], extension=f"{n:08d}"),
    "signatures": lambda n: Row(id=0, port=LAWFUL[3], extension="01", text=f"【{chr(0x4E00 + n)}公司】您好"),
    "accounts": lambda n: Row(id=0, port=LAWFUL[3], extension="01", account=f"a{n}", text="【企业40】您好"),
}


def attacked(kind: str) -> list[Row]:
    """From the tenth minute on for half of the time: fifty times what the table holds."""
    n = 20_000
    times = np.linspace(600_000, 1_800_000, n, dtype=np.int64).tolist()
    return [replace(ATTACKS[kind](k), id=1_000_000 + k, at_ms=at_ms) for k, at_ms in enumerate(times)]


def judged(rows: list[Row], untouched: tuple[str, ...]) -> tuple[list[Any], list[Any], PartitionState]:
    """What is said of the ports that are not attacked, and what is known of them at the end."""
    ticks = np.repeat(np.arange(-2 * DAY_TICKS, 0), len(LAWFUL))
    history = learn(LAWFUL * (2 * DAY_TICKS), START_MS + ticks * TICK_MS, 150 + ticks % 7, MARKET)
    state = TOWN.start("sms.submit.v1", 0)
    volume = VolumeDetector()
    volume.seed(state.detectors[volume.name], state.groups, history)
    ordered = [replace(row, id=row.id * _SPREAD % 2**63) for row in sorted(rows, key=lambda row: row.at_ms)]
    outcomes = [TOWN.step(state, batch(ordered[n : n + 997]), MARKET) for n in range(0, len(ordered), 997)]
    outcomes.append(TOWN.step(state, empty_batch(START_MS + MINUTES * MINUTE_MS + HOUR_MS), MARKET))
    told = [
        replace(alert, detected_event_ms=0, source=[])
        for outcome in outcomes
        for alert in outcome.alerts
        if alert.access_port in untouched
    ]
    learnt = volume.export(state.detectors[volume.name], state.groups)
    place = {port: n for n, port in enumerate(learnt.ports)}
    known = [
        (name, port, column[..., place[port]].tolist())
        for _, name, column in columns(learnt.history)
        for port in untouched
    ]
    return sorted(told, key=lambda alert: (alert.alert_id, alert.state)), known, state


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_with_new_names_takes_nothing_from_the_lawful(kind: str) -> None:
    untouched = (*LAWFUL[:3], LATECOMER)
    told, known, _ = judged(lawful(), untouched)
    assert {alert.rule for alert in told} >= {"volume-flash", "unfiled", "foreign-enterprises", "cap-minute", "cap-day"}
    with_attack, known_with_attack, state = judged(lawful() + attacked(kind), untouched)
    assert with_attack == told
    assert known_with_attack == known
    assert state.groups.overflowed > 15_000
    assert state.tally.difference == 0
