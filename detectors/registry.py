"""The filing system as a value: leases, filings, enterprises, and what they say about one full port at one moment.

Row types are those of the contract's registry folder; times are UTC epoch milliseconds, intervals half-open (absent =
open end). A snapshot is immutable: a change makes a new one, and detectors get it passed in with every pane. Look-ups
take the moment they are asked about, so a replay of yesterday is judged by yesterday's registry.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, TypeVar

from detectors.signature.normalise import normalise

Carrier = Literal["mobile", "unicom", "telecom", "broadnet"]
Purpose = Literal["code", "notification", "marketing", "public"]
CustomerType = Literal["enterprise", "aggregator", "platform", "government"]
PortState = Literal["online", "offline", "rectifying"]
Ownership = Literal["filing", "brand"]

IN_FORCE = 3
"""The one filing state that authorises; -2 not filed, -1 filing, 0 failed, 1 to verify, 2 expired, 3 success."""

FAILED = 0
END_OF_TIME_MS = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdParty:
    """An enterprise other than the lessee that may use the port, from <= t < to."""

    enterprise_id: str
    since: int | None = None  # `from` on the wire
    to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way into the gateway that belongs to this port."""

    account: str | None = None
    sp_id: str | None = None
    network: str | None = None
    role: Literal["main", "recovery"] = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """Contracted or regulatory limits of a port: carried segments (recipients times segments) in any minute, and in a
    day of Asia/Shanghai; hours are [from, to) of that day, over midnight when from > to."""

    per_minute: int | None = None
    per_day: int | None = None
    hours: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLease:
    """A row of ports.jsonl: who leases a main port, and how it may be used."""

    access_port: str
    carriers: tuple[Carrier, ...] = ()  # empty = all
    province: str | None = None
    lessee_id: str | None = None
    lessee_name: str | None = None
    customer_type: CustomerType = "enterprise"
    group_id: str | None = None
    purposes: tuple[Purpose, ...] = ()
    industry: str | None = None
    allow_self_extension: bool = False
    authorised_from: int | None = None
    authorised_to: int | None = None
    state: PortState = "online"
    third_parties: tuple[ThirdParty, ...] = ()
    paths: tuple[Path, ...] = ()
    caps: Caps | None = None
    protected: bool = False
    effective_from: int | None = None
    effective_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filing:
    """A row of signatures.jsonl: one name filed for one enterprise on one full port."""

    access_port: str
    signature: str
    extension: str | None = None  # None = any extension of a port that allows self-extension
    carrier: Carrier | None = None  # None = all
    enterprise_id: str | None = None
    enterprise_name: str | None = None
    purpose: Purpose | None = None
    state: int = IN_FORCE
    is_gateway_signature: bool = False
    effective_from: int | None = None
    effective_to: int | None = None
    last_traffic: int | None = None
    links: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Enterprise:
    """A row of enterprises.jsonl; the id is the unified social credit code."""

    enterprise_id: str
    name: str
    group_id: str | None = None
    industry: str | None = None
    brands: tuple[str, ...] = ()
    protected_brands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A row of campaigns.jsonl: a planned volume of a port or a lessee, from <= t < to."""

    since: int  # `from` on the wire
    to: int
    expected_recipients: int
    access_port: str | None = None
    lessee_id: str | None = None
    approved_by: str | None = None
    note: str | None = None


class _Dated(Protocol):
    @property
    def effective_from(self) -> int | None: ...
    @property
    def effective_to(self) -> int | None: ...


_Row = TypeVar("_Row", bound=_Dated)


def within(at_ms: int, since: int | None, to: int | None) -> bool:
    """Is `at_ms` in the half-open interval, None being an open end?"""
    return (since is None or since <= at_ms) and (to is None or at_ms < to)


def in_force(filing: Filing, at_ms: int) -> bool:
    """Does the filing authorise anything at a moment?"""
    return filing.state == IN_FORCE and within(at_ms, filing.effective_from, filing.effective_to)


def _effective(rows: Sequence[_Row], at_ms: int) -> list[_Row]:
    return [row for row in rows if within(at_ms, row.effective_from, row.effective_to)]


@dataclass(frozen=True)
class Registry:
    """An immutable snapshot. `version` tells snapshots apart (detectors may cache verdicts under it)."""

    ports: tuple[PortLease, ...] = ()
    filings: tuple[Filing, ...] = ()
    enterprises: tuple[Enterprise, ...] = ()
    campaigns: tuple[Campaign, ...] = ()
    version: str = ""

    @property
    def is_empty(self) -> bool:
        """True when nothing is loaded: then nobody may be judged against it."""
        return not self.ports and not self.filings

    def lease(self, access_port: str, at_ms: int) -> PortLease | None:
        """The lease of a main port in effect at a moment."""
        rows = _effective(self._leases.get(access_port, ()), at_ms)
        return rows[0] if rows else None

    def is_leased(self, access_port: str) -> bool:
        """Is there a lease of a main port, whatever its dates and state?"""
        return access_port in self._leases

    def filings_of_port(self, access_port: str, at_ms: int) -> list[Filing]:
        """All filings on a main port in effect at a moment, whatever their state, extension and carrier."""
        return _effective(self._filings_of_port.get(access_port, ()), at_ms)

    def filings_of_signature(self, signature: str, at_ms: int) -> list[Filing]:
        """All filings of a name (normalised) on any port in effect at a moment, whatever their state."""
        return _effective(self.history_of_signature(signature), at_ms)

    def history_of_signature(self, signature: str) -> Sequence[Filing]:
        """All filings of a name (normalised) there ever were or are announced."""
        return self._filings_of_signature.get(normalise(signature), ())

    def history_on_port(self, access_port: str, signature: str) -> Sequence[Filing]:
        """All filings of a name (normalised) on one main port there ever were or are announced."""
        return self._filings_of_name_on_port.get((access_port, normalise(signature)), ())

    def gateway_filings(self, access_port: str, at_ms: int) -> list[Filing]:
        """The filings in force on a main port whose signature the gateway appends."""
        return [row for row in self._gateway_filings.get(access_port, ()) if in_force(row, at_ms)]

    def owners_of(self, signature: str) -> Mapping[str, Ownership]:
        """Enterprise id -> how the name (normalised) is known to be theirs; filings that failed prove nothing."""
        return self._owners.get(normalise(signature), {})

    def unchanged_until(self, at_ms: int) -> int:
        """The first moment after `at_ms` at which a date of any row is reached: what was looked up holds until then."""
        after = bisect_right(self._dates, at_ms)
        return self._dates[after] if after < len(self._dates) else END_OF_TIME_MS

    def traffic_known_until(self, at_ms: int) -> int:
        """The newest traffic up to a moment that any filing tells of; 0 if none does."""
        before = bisect_right(self._last_traffics, at_ms)
        return self._last_traffics[before - 1] if before else 0

    def enterprise(self, enterprise_id: str) -> Enterprise | None:
        return self._enterprises.get(enterprise_id)

    def group_of(self, enterprise_id: str) -> str:
        """The corporate group of an enterprise: its group_id, else itself."""
        found = self._enterprises.get(enterprise_id)
        return (found.group_id if found else None) or enterprise_id

    @cached_property
    def _leases(self) -> dict[str, list[PortLease]]:
        return _index((row.access_port, row) for row in self.ports)

    @cached_property
    def _filings_of_port(self) -> dict[str, list[Filing]]:
        return _index((row.access_port, row) for row in self.filings)

    @cached_property
    def _filings_of_signature(self) -> dict[str, list[Filing]]:
        return _index((normalise(row.signature), row) for row in self.filings)

    @cached_property
    def _filings_of_name_on_port(self) -> dict[tuple[str, str], list[Filing]]:
        return _index(((row.access_port, normalise(row.signature)), row) for row in self.filings)

    @cached_property
    def _gateway_filings(self) -> dict[str, list[Filing]]:
        return _index((row.access_port, row) for row in self.filings if row.is_gateway_signature)

    @cached_property
    def _owners(self) -> dict[str, dict[str, Ownership]]:
        owners: defaultdict[str, dict[str, Ownership]] = defaultdict(dict)
        for row in self.filings:
            if row.enterprise_id and row.state != FAILED:
                owners[normalise(row.signature)][row.enterprise_id] = "filing"
        for enterprise in self.enterprises:
            for name in (enterprise.name, *enterprise.brands, *enterprise.protected_brands):
                owners[normalise(name)].setdefault(enterprise.enterprise_id, "brand")
        return dict(owners)

    @cached_property
    def _dates(self) -> list[int]:
        return sorted({date for date in _all_dates(self) if date is not None})

    @cached_property
    def _last_traffics(self) -> list[int]:
        return sorted({row.last_traffic for row in self.filings if row.last_traffic is not None})

    @cached_property
    def _enterprises(self) -> dict[str, Enterprise]:
        return {row.enterprise_id: row for row in self.enterprises}


def _all_dates(registry: Registry) -> Iterator[int | None]:
    for lease in registry.ports:
        yield from (lease.effective_from, lease.effective_to, lease.authorised_from, lease.authorised_to)
        for party in lease.third_parties:
            yield from (party.since, party.to)
    for filing in registry.filings:
        yield from (filing.effective_from, filing.effective_to)


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _index(pairs: Iterable[tuple[_Key, _Value]]) -> dict[_Key, list[_Value]]:
    index: defaultdict[_Key, list[_Value]] = defaultdict(list)
    for key, value in pairs:
        index[key].append(value)
    return dict(index)
