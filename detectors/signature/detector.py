"""Who sends under a name that is not filed for where it stands, and who shares one full port under two names?

`judge` answers for each group; here the answers of a pane become one finding per rule and port, with what a person
needs to weigh it: volume, share, novelty, persistence. One slip stays a line in a report.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from detectors.batch import Codes, Flags, Ints
from detectors.ceilings import Ceiling
from detectors.contract import Finding, Pane, Severity
from detectors.groups import OVERFLOW, Gone, GroupKey, Groups
from detectors.judged import Judged
from detectors.registry import Registry
from detectors.rolling import Rolling, rolling
from detectors.signature.extract import Form
from detectors.signature.full_ports import Company, FullPorts
from detectors.signature.judge import Judgement, judge, offence
from detectors.signature.masking import shown, visible
from detectors.signature.wording import checked, summary

_HOUR_MS = 3_600_000
_MINUTE_MS = 60_000
_SHOWN = 5
_PER_EXTENSION = frozenset({"extension-unfiled", "second-signature"})
_SECOND = "second-signature"


class OffenceKey(NamedTuple):
    rule: str
    access_port: str
    extension: str | None  # None where the rule is about the whole port


@dataclass(slots=True)
class Offence:
    """What has been seen of one offence since it began; it ends after an hour without it."""

    since_ms: int
    last_ms: int = 0
    hour: Rolling = field(default_factory=lambda: rolling(_MINUTE_MS, 60, 3))  # submits, all of the port, panes
    names: dict[tuple[str | None, str | None], int] = field(default_factory=dict)  # (extension, name) -> first seen


class Seen(NamedTuple):
    """One offending group in one pane."""

    submits: int
    offset: int  # of the first of them
    code: int
    group: GroupKey
    rule: str
    judgement: Judgement
    company: Company | None

    @property
    def key(self) -> OffenceKey:
        extension = self.group.extension if self.rule in _PER_EXTENSION else None
        return OffenceKey(self.rule, self.group.access_port, extension)

    @property
    def pair(self) -> tuple[str | None, str | None]:
        return self.group.extension, self.judgement.name

    @property
    def because(self) -> Mapping[str, Any]:
        if self.rule == _SECOND and self.company:
            return {"beside": [shown(name) for name in self.company.others[:_SHOWN]]}
        return self.judgement.because

    @property
    def also(self) -> set[str]:
        """What else is wrong with the same submits."""
        rules = {self.judgement.rule, *self.judgement.also, _SECOND if self.company else None}
        return {rule for rule in rules if rule and rule != self.rule}


@dataclass(eq=False)
class SignatureState:
    full_ports: FullPorts = field(default_factory=FullPorts)
    offences: dict[str, dict[OffenceKey, Offence]] = field(default_factory=dict)  # by access port
    untracked: int = 0  # findings lost because too many offences were open
    unnamed: int = 0  # pairs of extension and name that an offence had no room for

    def __post_init__(self) -> None:
        # Derived, so not fields: a checkpoint leaves them out.
        self._judged = Judged[Judgement]()
        self._of_rule = Counter(key.rule for of_port in self.offences.values() for key in of_port)
        self._names = sum(len(had.names) for of_port in self.offences.values() for had in of_port.values())

    @property
    def of_rule(self) -> Counter[str]:
        """Open offences by rule."""
        return self._of_rule

    @property
    def names(self) -> int:
        """Pairs of extension and name that are remembered."""
        return self._names

    def open(self, key: OffenceKey, at_ms: int) -> Offence:
        had = self.offences.setdefault(key.access_port, {})[key] = Offence(at_ms)
        self._of_rule[key.rule] += 1
        return had

    def remember(self, had: Offence, pair: tuple[str | None, str | None], at_ms: int) -> None:
        self._names += pair not in had.names
        had.names.setdefault(pair, at_ms)

    def end(self, access_port: str, at_ms: int) -> None:
        """End the offences of a port that have not been seen for an hour."""
        of_port = self.offences[access_port]
        for key in [key for key, had in of_port.items() if had.last_ms <= at_ms - _HOUR_MS]:
            self._names -= len(of_port.pop(key).names)
            self._of_rule[key.rule] -= 1
        if not of_port:
            del self.offences[access_port]

    @property
    def judged(self) -> Judged[Judgement]:
        return self._judged


@dataclass(frozen=True, slots=True)
class SignatureDetector:
    """Pages need volume and persistence; the defaults are our proposal, no published figure exists."""

    name: str = "signature"
    warning_submits: int = 20  # within the last hour
    persistent_panes: int = 2  # with the offence, within the last hour
    critical_submits: int = 1_000  # within the last hour
    critical_share: float = 0.2  # of the port's submits in that hour, as far as it was watched
    shared_ms: int = 24 * _HOUR_MS  # two names within this time share a full port
    offence_limit: int = 1 << 14  # open at once
    rule_limit: int = 1 << 13  # of them, of one rule
    port_limit: int = 1 << 8  # and of one port
    name_limit: int = 64  # names remembered per offence; what comes later is not called new
    names_limit: int = 1 << 17  # names remembered together

    def start(self) -> SignatureState:
        return SignatureState()

    def step(self, state: SignatureState, pane: Pane, registry: Registry) -> list[Finding]:
        """Findings of one pane, one per rule and port (and extension, where the rule is about it)."""
        if registry.is_empty:
            return []
        sent = (pane.group != OVERFLOW) & (pane.submits > 0)
        cases = self._cases(state, pane, pane.group[sent], registry)
        self._watch(state, pane, cases, _submits_by_port(pane, sent))
        tracked = ((key, seen, state.offences.get(key.access_port, {}).get(key)) for key, seen in cases.items())
        return [self._finding(state, key, seen, had, pane) for key, seen, had in tracked if had]

    def forget(self, state: SignatureState, gone: Gone, groups: Groups, at_ms: int) -> None:
        state.full_ports.forget(gone.groups, groups)
        state.judged.forget(gone.groups)
        for access_port in list(state.offences):
            state.end(access_port, at_ms)

    def ceilings(self, state: SignatureState) -> Mapping[str, Ceiling]:
        return {
            "offences": Ceiling(state.of_rule.total(), self.offence_limit, state.untracked),
            "offence_names": Ceiling(state.names, self.names_limit, state.unnamed),
        }

    def _cases(
        self, state: SignatureState, pane: Pane, codes: Codes, registry: Registry
    ) -> dict[OffenceKey, list[Seen]]:
        state.full_ports.note(pane, codes, self.shared_ms)
        companies = state.full_ports.companies(pane, codes, registry, self.shared_ms)
        wrong = state.judged.among(codes, offence, pane.groups, registry, pane.start_ms).tolist()
        cases: defaultdict[OffenceKey, list[Seen]] = defaultdict(list)
        codes = np.array(sorted({*wrong, *companies}), np.int32)
        rows = np.searchsorted(pane.group, codes)
        arrived = np.argsort(pane.first_offset[rows], kind="stable")  # codes say nothing: they are used again
        for code, row in zip(codes[arrived].tolist(), rows[arrived].tolist(), strict=True):
            group, company = pane.groups.keys[code], companies.get(code)
            judgement = state.judged.verdicts.get(code) or judge(group, registry, pane.start_ms)
            if rule := _rule(judgement, company):
                seen = Seen(int(pane.submits[row]), int(pane.first_offset[row]), code, group, rule, judgement, company)
                cases[seen.key].append(seen)
        return {key: sorted(seen, key=lambda one: (-one.submits, one.offset)) for key, seen in cases.items()}

    def _watch(self, state: SignatureState, pane: Pane, cases: Mapping[OffenceKey, list[Seen]], by_port: Ints) -> None:
        """Open, continue and end offences."""
        sent = [(pane.groups.ports[code], int(by_port[code])) for code in np.flatnonzero(by_port).tolist()]
        for port, _ in sent:
            if port in state.offences:
                state.end(port, pane.start_ms)
        for key in cases:
            had = state.offences.get(key.access_port, {}).get(key)
            if had is None and not self._has_room(state, key):
                state.untracked += 1
            else:
                (had or state.open(key, pane.start_ms)).last_ms = pane.start_ms
        for port, of_port in sent:
            for key, had in state.offences.get(port, {}).items():
                seen = cases.get(key, [])
                had.hour.add(pane.start_ms, _submits(seen), of_port, int(bool(seen)))

    def _has_room(self, state: SignatureState, key: OffenceKey) -> bool:
        """Who breaks one rule on many ports, or many rules on one port, leaves room for the offences of others."""
        return (
            state.of_rule.total() < self.offence_limit
            and state.of_rule[key.rule] < self.rule_limit
            and len(state.offences.get(key.access_port, ())) < self.port_limit
        )

    def _finding(self, state: SignatureState, key: OffenceKey, seen: list[Seen], had: Offence, pane: Pane) -> Finding:
        """`seen`: the busiest first."""
        hour, of_port, panes = had.hour.total()
        names = list(dict.fromkeys(shown(one.judgement.name) for one in seen if one.judgement.name))
        new_names = self._remember(state, had, seen, pane.start_ms)
        return Finding(
            rule=key.rule,
            severity=self._severity(key, seen, hour, hour / of_port, panes),
            at_ms=pane.start_ms,
            access_port=key.access_port,
            extension=key.extension,
            signature=names[0] if len(names) == 1 else None,
            lessee_id=seen[0].judgement.lessee_id,
            size=float(hour),
            summary=summary(key.rule, key.access_port + (key.extension or ""), hour, hour / of_port, names),
            evidence={
                "submits": _submits(seen),
                "submits_hour": hour,
                "share_hour": round(hour / of_port, 4),
                "panes_hour": panes,
                "since_ms": had.since_ms,
                "names": len(names),
                "new_names": new_names,
                "variant_submits": _submits(one for one in seen if one.group.form == Form.VARIANT),
                "malformed_submits": _submits(one for one in seen if one.group.form == Form.MALFORMED),
                "also": sorted(set[str]().union(*(one.also for one in seen))),
                "top": [_line(one, pane, had) for one in seen[:_SHOWN]],
            },
            ruled_out=checked(key.rule),
            offsets=tuple(one.offset for one in seen[:_SHOWN]),
        )

    def _severity(self, key: OffenceKey, seen: list[Seen], hour: int, share: float, panes: int) -> Severity:
        mere_change = key.rule == _SECOND and not any(one.company and one.company.taking_turns for one in seen)
        if mere_change or hour < self.warning_submits or panes < self.persistent_panes:
            return Severity.INFO
        big = hour >= self.critical_submits and share >= self.critical_share
        return Severity.CRITICAL if big else Severity.WARNING

    def _remember(self, state: SignatureState, had: Offence, seen: list[Seen], at_ms: int) -> int:
        """How many (extension, name) pairs are new to the offence."""
        known = len(had.names)
        for one in seen:
            if len(had.names) < self.name_limit and state.names < self.names_limit:
                state.remember(had, one.pair, at_ms)
            elif one.pair not in had.names:
                state.unnamed += 1
        return len(had.names) - known


def _rule(judgement: Judgement, company: Company | None) -> str | None:
    """The most specific rule: what is wrong with the name, then its company, then what is wrong with the port."""
    if company and company.is_second and not judgement.name_rule and judgement.rule != "port-unregistered":
        return _SECOND
    return judgement.rule


def _submits(seen: Iterable[Seen]) -> int:
    return sum(one.submits for one in seen)


def _submits_by_port(pane: Pane, sent: Flags) -> Ints:
    """[<= number of ports], by port code."""
    return np.bincount(pane.groups.port_of[pane.group[sent]], weights=pane.submits[sent]).astype(np.int64)


def _line(one: Seen, pane: Pane, had: Offence) -> Mapping[str, Any]:
    return {
        "extension": one.group.extension,
        "signature": shown(one.judgement.name) if one.judgement.name else None,
        "form": Form(one.group.form).name.lower(),
        "account": visible(one.group.account) if one.group.account else None,
        "submits": one.submits,
        "first_seen_ms": had.names.get(one.pair),
        "sample": pane.groups.samples[one.code],
        **one.because,
    }
