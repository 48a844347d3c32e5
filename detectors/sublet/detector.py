"""Is a lessee's port used by several enterprises that are not the lessee? The hard core of a sublet (转租).

For every port that carries foreign names a case gathers, over a day of event time, who they are and how much they send.
A fan-out of names alone proves nothing: who is innocent is `owners`' business and never enters a case.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from detectors.batch import Codes, Ints
from detectors.ceilings import Ceiling
from detectors.contract import Finding, Pane, Severity
from detectors.groups import OVERFLOW, Gone, GroupKey, Groups
from detectors.judged import Judged
from detectors.registry import PortLease, Registry
from detectors.rolling import Rolling, rolling
from detectors.signature.judge import judge
from detectors.signature.masking import shown
from detectors.signature.normalise import normalise
from detectors.sublet.owners import Owner, foreign_owner
from detectors.sublet.wording import ruled_out, summary

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_SHOWN = 10
_RULE = "foreign-enterprises"
_RESELLERS = frozenset({"aggregator", "platform"})

TenantKey = tuple[str | None, str]  # enterprise id; for an unknown owner None and the folded name


def _day(amounts: int) -> Rolling:
    return rolling(_HOUR_MS, 24, amounts)


@dataclass(slots=True)
class Tenant:
    """A foreign enterprise on one port, or a name of nobody we know. Its collections are cut at the limits."""

    owner: Owner
    since_ms: int
    sample: str  # masked
    last_ms: int = 0
    day: Rolling = field(default_factory=lambda: _day(1))  # submits
    signatures: dict[str, None] = field(default_factory=dict)
    extensions: dict[str | None, None] = field(default_factory=dict)
    rules: dict[str, None] = field(default_factory=dict)  # what the signature detector says about it

    @property
    def submits(self) -> int:
        return self.day.total()[0]


@dataclass(slots=True)
class Case:
    """What a port's foreign tenants did within a day, since the first of them was seen."""

    since_ms: int
    day: Rolling = field(default_factory=lambda: _day(3))  # submits of the port, of foreign tenants, panes with one
    tenants: dict[TenantKey, Tenant] = field(default_factory=dict)
    untracked: int = 0  # submits of tenants that found no room


class Seen(NamedTuple):
    """One foreign group in one pane."""

    submits: int
    offset: int  # of the first of them
    code: int
    group: GroupKey
    owner: Owner


@dataclass(eq=False)
class SubletState:
    cases: dict[str, Case] = field(default_factory=dict)
    untracked: int = 0  # panes of ports for which there was no room for a case
    turned_away: int = 0  # submits of tenants that found no room

    def __post_init__(self) -> None:
        # Derived, so not fields: a checkpoint leaves them out.
        self._judged = Judged[Owner]()
        self._tenants = sum(len(case.tenants) for case in self.cases.values())

    @property
    def tenants(self) -> int:
        """Of all cases."""
        return self._tenants

    def move_in(self, case: Case, key: TenantKey, tenant: Tenant) -> None:
        case.tenants[key] = tenant
        self._tenants += 1

    def move_out(self, port: str, at_ms: int) -> None:
        """Forget the tenants of a port that have been quiet for a day, and the case when none is left."""
        tenants = self.cases[port].tenants
        for key in [key for key, tenant in tenants.items() if tenant.last_ms <= at_ms - _DAY_MS]:
            del tenants[key]
            self._tenants -= 1
        if not tenants:
            del self.cases[port]

    @property
    def judged(self) -> Judged[Owner]:
        return self._judged


@dataclass(frozen=True, slots=True)
class SubletDetector:
    """The defaults are our proposal; no labelled sublet is public to calibrate them on.

    Hard evidence for a page is an owner known by a filing or a registered brand. Names of unknown owners support a
    case, alone they stay a line in a report; on a reseller's port they are clients not yet filed and count for nothing.
    """

    name: str = "sublet"
    tenant_submits: int = 5  # within a day, before a tenant counts
    several: int = 2  # foreign enterprises
    unknown_weight: float = 0.5  # of a foreign enterprise, for a name whose owner is unknown
    whole_share: float = 0.5  # of the port's submits: one enterprise alone that uses the port as its own
    whole_submits: int = 100
    warning_submits: int = 20  # of all foreign tenants, within a day
    persistent_panes: int = 2
    critical_enterprises: int = 3  # known by a filing
    critical_submits: int = 1_000
    critical_share: float = 0.2
    case_limit: int = 1 << 13
    tenant_limit: int = 64  # per case
    tenants_limit: int = 1 << 14  # of all cases
    name_limit: int = 16  # signatures, and extensions, remembered per tenant

    def start(self) -> SubletState:
        return SubletState()

    def step(self, state: SubletState, pane: Pane, registry: Registry) -> list[Finding]:
        """Findings of one pane, one per port at most."""
        if registry.is_empty:
            return []
        sent = (pane.group != OVERFLOW) & (pane.submits > 0)
        codes = pane.group[sent]
        foreign = state.judged.among(codes, foreign_owner, pane.groups, registry, pane.start_ms)
        by_port = _by_port(foreign, state, pane)
        counts = np.bincount(pane.groups.port_of[codes], weights=pane.submits[sent]).astype(np.int64)
        self._count(state, pane, by_port, counts, registry)
        findings = (self._finding(state.cases.get(port), seen, pane, registry) for port, seen in by_port.items())
        return [finding for finding in findings if finding]

    def forget(self, state: SubletState, gone: Gone, groups: Groups, at_ms: int) -> None:  # noqa: ARG002 - the protocol's
        state.judged.forget(gone.groups)
        for port in list(state.cases):
            state.move_out(port, at_ms)

    def ceilings(self, state: SubletState) -> Mapping[str, Ceiling]:
        return {
            "cases": Ceiling(len(state.cases), self.case_limit, state.untracked),
            "tenants": Ceiling(state.tenants, self.tenants_limit, state.turned_away),
        }

    def _count(
        self, state: SubletState, pane: Pane, by_port: Mapping[str, list[Seen]], counts: Ints, registry: Registry
    ) -> None:
        sent = [(pane.groups.ports[code], int(counts[code])) for code in np.flatnonzero(counts).tolist()]
        for port, _ in sent:
            if port in state.cases:
                state.move_out(port, pane.start_ms)
        for port, seen in by_port.items():
            if port not in state.cases and not self._has_room(state):
                state.untracked += 1
                continue
            case = state.cases.setdefault(port, Case(pane.start_ms))
            for one in seen:
                self._meet(state, case, one, pane, registry)
        for port, of_port in sent:
            if port in state.cases:
                seen = by_port.get(port, [])
                state.cases[port].day.add(pane.start_ms, of_port, sum(one.submits for one in seen), int(bool(seen)))

    def _has_room(self, state: SubletState) -> bool:
        """For one more case, with a tenant in it."""
        return len(state.cases) < self.case_limit and state.tenants < self.tenants_limit

    def _meet(self, state: SubletState, case: Case, one: Seen, pane: Pane, registry: Registry) -> None:
        key = _tenant_key(one)
        tenant = case.tenants.get(key)
        if tenant is None and (len(case.tenants) >= self.tenant_limit or state.tenants >= self.tenants_limit):
            case.untracked += one.submits
            state.turned_away += one.submits
            return
        if tenant is None:
            tenant = Tenant(one.owner, pane.start_ms, pane.groups.samples[one.code])
            state.move_in(case, key, tenant)
        tenant.last_ms = pane.start_ms
        tenant.day.add(pane.start_ms, one.submits)
        if len(tenant.extensions) < self.name_limit:
            tenant.extensions.setdefault(one.group.extension)
        if len(tenant.signatures) < self.name_limit and one.group.signature not in tenant.signatures:
            tenant.signatures[one.group.signature or ""] = None
            tenant.rules.setdefault(judge(one.group, registry, pane.start_ms).rule or "none")

    def _finding(self, case: Case | None, seen: list[Seen], pane: Pane, registry: Registry) -> Finding | None:
        port = seen[0].group.access_port
        lease = registry.lease(port, pane.start_ms)
        if case is None or lease is None:
            return None
        known, unknown = self._loud(case, lease)
        of_port, foreign, panes = case.day.total()
        whole = self._takes_the_whole(known, lease, of_port)
        if len(known) + self.unknown_weight * len(unknown) < self.several and not whole:
            return None
        return Finding(
            rule=_RULE,
            severity=self._severity(known, lease, foreign, foreign / of_port, panes, whole=whole),
            at_ms=pane.start_ms,
            access_port=port,
            lessee_id=lease.lessee_id,
            size=float(foreign),
            summary=summary(port, lease, [t.owner.name for t in known], len(unknown), foreign, foreign / of_port),
            evidence=_evidence(case, lease, known, unknown),
            ruled_out=ruled_out(lease, [tenant.owner for tenant in known], registry, pane.start_ms),
            offsets=tuple(one.offset for one in seen[:5]),
        )

    def _loud(self, case: Case, lease: PortLease) -> tuple[list[Tenant], list[Tenant]]:
        """The tenants that count, the busiest first: enterprises, and names of unknown owners."""
        loud = [tenant for tenant in case.tenants.values() if tenant.submits >= self.tenant_submits]
        loud.sort(key=lambda tenant: (-tenant.submits, tenant.since_ms))
        unknown = [tenant for tenant in loud if tenant.owner.enterprise_id is None]
        known = [tenant for tenant in loud if tenant.owner.enterprise_id is not None]
        return known, [] if lease.customer_type in _RESELLERS else unknown

    def _takes_the_whole(self, known: list[Tenant], lease: PortLease, of_port: int) -> bool:
        if lease.customer_type in _RESELLERS:
            return False
        return any(t.submits >= max(self.whole_submits, self.whole_share * of_port) for t in known)

    def _severity(
        self, known: list[Tenant], lease: PortLease, foreign: int, share: float, panes: int, *, whole: bool
    ) -> Severity:
        proven = whole or len(known) >= self.several
        if not proven or panes < self.persistent_panes or foreign < self.warning_submits:
            return Severity.INFO
        filed = sum(tenant.owner.known_by == "filing" for tenant in known)
        big = foreign >= self.critical_submits and share >= self.critical_share
        hard = filed >= self.critical_enterprises and lease.customer_type not in _RESELLERS
        return Severity.CRITICAL if big and hard else Severity.WARNING


def _by_port(codes: Codes, state: SubletState, pane: Pane) -> Mapping[str, list[Seen]]:
    """The foreign groups of each port, the busiest first."""
    by_port: defaultdict[str, list[Seen]] = defaultdict(list)
    rows = np.searchsorted(pane.group, codes)
    arrived = np.argsort(pane.first_offset[rows], kind="stable")  # codes say nothing: they are used again
    for row, code in zip(rows[arrived].tolist(), codes[arrived].tolist(), strict=True):
        group = pane.groups.keys[code]
        seen = Seen(int(pane.submits[row]), int(pane.first_offset[row]), code, group, state.judged.verdicts[code])
        by_port[group.access_port].append(seen)
    return {port: sorted(seen, key=lambda one: (-one.submits, one.offset)) for port, seen in by_port.items()}


def _tenant_key(one: Seen) -> TenantKey:
    return (one.owner.enterprise_id, "") if one.owner.enterprise_id else (None, normalise(one.owner.name))


def _evidence(case: Case, lease: PortLease, known: list[Tenant], unknown: list[Tenant]) -> Mapping[str, Any]:
    of_port, foreign, panes = case.day.total()
    return {
        "lessee_id": lease.lessee_id,
        "lessee_name": shown(lease.lessee_name) if lease.lessee_name else None,
        "customer_type": lease.customer_type,
        "submits_day": foreign,
        "share_day": round(foreign / of_port, 4),
        "watched_since_ms": case.since_ms,
        "panes_day": panes,
        "untracked_submits": case.untracked,
        "foreign_enterprises": len(known),
        "unknown_names": len(unknown),
        "enterprises": _lines(known, of_port),
        "unknown": _lines(unknown, of_port),
    }


def _lines(tenants: Iterable[Tenant], of_port: int) -> list[Mapping[str, Any]]:
    return [
        {
            "enterprise_id": tenant.owner.enterprise_id,
            "name": shown(tenant.owner.name),
            "known_by": tenant.owner.known_by,
            "signatures": [shown(name) for name in tenant.signatures],
            "extensions": list(tenant.extensions),
            "submits": tenant.submits,
            "share": round(tenant.submits / of_port, 4),
            "first_seen_ms": tenant.since_ms,
            "last_seen_ms": tenant.last_ms,
            "signature_rules": list(tenant.rules),
            "sample": tenant.sample,
        }
        for tenant in list(tenants)[:_SHOWN]
    ]
