"""What a volume finding says: numbers a person can check, in one sentence, and what was ruled out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detectors.batch import Codes, Ints
from detectors.contract import PANE_MS, Finding, Pane, Severity, Wording
from detectors.volume.ports import CLASSES, DAY_TICKS

_TOP = 5
_COARSE = 10  # expectations below it are told with a decimal
_LONG_S = 600  # durations from here on are told in minutes
_SPAN = {
    1: Wording("10 s", "10秒"),
    6: Wording("1 min", "1分钟"),
    30: Wording("5 min", "5分钟"),
    90: Wording("15 min", "15分钟"),
    360: Wording("1 h", "1小时"),
}


@dataclass(frozen=True, slots=True)
class Exceedance:
    """One port at one scale: what came, what was expected, and how odd that is (all scales taken together)."""

    port: int  # port code
    observed: int
    expected: float
    low: int  # central 95 % range
    high: int
    surprise: float  # -log10 of the chance of so much or more
    scale: int  # panes
    since_ms: int
    planned: int  # recipients of campaigns announced for now
    port_class: int
    history_ticks: int

    @property
    def factor(self) -> float:
        """Observed over expected; an expectation below one message counts as one."""
        return self.observed / max(self.expected, 1)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a pane, sorted by port, to look into a few ports."""

    pane: Pane
    at_ms: int  # start of the pane that is spoken of
    order: Ints
    port: Codes  # port code of each sorted row

    def of(self, code: int) -> Ints:
        begin, end = np.searchsorted(self.port, [code, code + 1]).tolist()
        return self.order[begin:end]


def rows_by_port(pane: Pane, port_of_row: Codes, at_ms: int | None = None) -> Rows:
    """At another time than the pane's it is about a pane without rows."""
    order = np.argsort(port_of_row, kind="stable")
    return Rows(pane, pane.start_ms if at_ms is None else at_ms, order, port_of_row[order])


def flash(rows: Rows, found: Exceedance, severity: Severity) -> Finding:
    return _finding("volume-flash", rows, found, severity, Wording("sudden: ", "突增："))


def rise(rule: str, rows: Rows, found: Exceedance, severity: Severity) -> Finding:
    """`volume-step` or `volume-ramp`."""
    leads = {"volume-step": Wording("stays high: ", "持续偏高："), "volume-ramp": Wording("rising: ", "缓升：")}
    return _finding(rule, rows, found, severity, leads[rule])


def silence(rows: Rows, found: Exceedance, severity: Severity) -> Finding:
    return _finding("volume-silence", rows, found, severity, Wording("silent: ", "静默："))


def _finding(rule: str, rows: Rows, found: Exceedance, severity: Severity, lead: Wording) -> Finding:
    pane, mine = rows.pane, rows.of(found.port)
    largest = mine[np.argsort(-pane.submits[mine], kind="stable")[:_TOP]]
    return Finding(
        rule=rule,
        severity=severity,
        at_ms=rows.at_ms,
        access_port=pane.groups.ports[found.port],
        size=found.factor,
        summary=_summary(lead, found, rows.at_ms + PANE_MS),
        evidence=_evidence(found, _full_ports(pane, mine)),
        ruled_out=(_retries(int(pane.retries[mine].sum())), _campaign(found.planned)),
        offsets=tuple(pane.first_offset[largest].tolist()),
    )


def _retries(number: int) -> Wording:
    return Wording(f"retries: {number} in the last 10 s, none of them counted", f"重试：最近10秒{number}条，均未计入")


def _campaign(planned: int) -> Wording:
    if not planned:
        return Wording("campaign: none announced for now", "营销计划：当前未登记")
    return Wording(f"campaign: announced {planned:,}, exceeded", f"营销计划：已登记{planned:,}条，仍超出")


def _full_ports(pane: Pane, rows: Ints) -> list[dict[str, Any]]:
    """The full ports of the pane with the most submits, ties in order of their first appearance."""
    submits: dict[str | None, int] = {}
    for group, count in zip(pane.group[rows].tolist(), pane.submits[rows].tolist(), strict=True):
        extension = pane.groups.keys[group].extension
        submits[extension] = submits.get(extension, 0) + count
    top = sorted(submits.items(), key=lambda item: -item[1])[:_TOP]
    return [{"extension": extension, "submits": count} for extension, count in top if count]


def _evidence(found: Exceedance, full_ports: list[dict[str, Any]]) -> Mapping[str, Any]:
    scale_s = found.scale * PANE_MS // 1_000
    return {
        "observed": found.observed,
        "expected": round(found.expected, 3),
        "low": found.low,
        "high": found.high,
        "surprise": round(found.surprise, 1),
        "factor": round(found.factor, 2),
        "scale_s": scale_s,
        "expected_per_s": round(found.expected / scale_s, 4),
        "since_ms": found.since_ms,
        "class": CLASSES[found.port_class],
        "planned": found.planned,
        "baseline_days": round(found.history_ticks / DAY_TICKS, 2),
        "top_full_ports": full_ports,  # of the last 10 s
    }


def _summary(lead: Wording, found: Exceedance, now_ms: int) -> Wording:
    span, lasting = _SPAN[found.scale], _duration((now_ms - found.since_ms) // 1_000)
    usual, power = f"{found.expected:,.{1 if found.expected < _COARSE else 0}f}", int(found.surprise)
    expected = f"{usual} ({found.low:,}-{found.high:,})"
    return Wording(
        f"{lead.en}observed {found.observed:,} in {span.en}, expected {expected}, "
        f"chance {f'1 in 10^{power}' if power else 'no longer small'}, for {lasting.en}",
        f"{lead.zh}{span.zh}内{found.observed:,}条，预期{usual}条（{found.low:,}-{found.high:,}），"
        f"偶然概率{f'10^-{power}' if power else '已不小'}，已持续{lasting.zh}",
    )


def _duration(seconds: int) -> Wording:
    if seconds < _LONG_S:
        return Wording(f"{seconds} s", f"{seconds}秒")
    return Wording(f"{seconds // 60} min", f"{seconds // 60}分钟")
