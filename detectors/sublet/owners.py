"""Whose name is this, and may they use the lessee's port?

Innocent are the lessee, its group, a third party it authorised, within its dates, and whoever has filed the name on
this very port: the clients of an aggregator or a platform are filed there, so any number of them is legal.
"""

from dataclasses import dataclass

from detectors.groups import GroupKey
from detectors.registry import Ownership, PortLease, Registry, in_force, within
from detectors.signature.normalise import normalise

_SHORTEST = 2
"""Characters of a short form; providers file none with fewer."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody foreign to a port. Without an id the name belongs to nobody we know: weaker evidence."""

    name: str
    enterprise_id: str | None = None
    known_by: Ownership | None = None


def foreign_owner(key: GroupKey, registry: Registry, at_ms: int) -> Owner | None:
    """The foreign enterprise behind a group; None where there is none, or nothing to judge it by."""
    lease = registry.lease(key.access_port, at_ms)
    if key.signature is None or lease is None or lease.lessee_id is None or not registry.filings:
        return None
    if any(in_force(filing, at_ms) for filing in registry.history_on_port(key.access_port, key.signature)):
        return None
    if _is_short_for(key.signature, lease.lessee_name):
        return None
    owners = registry.owners_of(key.signature)
    if any(_may_use(enterprise_id, lease, registry, at_ms) for enterprise_id in owners):
        return None
    for enterprise_id, known_by in owners.items():
        return Owner(_name_of(enterprise_id, key.signature, registry), enterprise_id, known_by)
    return Owner(key.signature)


def _may_use(enterprise_id: str, lease: PortLease, registry: Registry, at_ms: int) -> bool:
    lessee_id = lease.lessee_id or ""
    if enterprise_id == lessee_id or registry.group_of(enterprise_id) in (lease.group_id, registry.group_of(lessee_id)):
        return True
    return any(
        party.enterprise_id == enterprise_id and within(at_ms, party.since, party.to) for party in lease.third_parties
    )


def _is_short_for(signature: str, full_name: str | None) -> bool:
    """A short name is a contiguous part of the full name (the providers' own rule)."""
    short = normalise(signature)
    return full_name is not None and len(short) >= _SHORTEST and short in normalise(full_name)


def _name_of(enterprise_id: str, signature: str, registry: Registry) -> str:
    if enterprise := registry.enterprise(enterprise_id):
        return enterprise.name
    filed = (f.enterprise_name for f in registry.history_of_signature(signature) if f.enterprise_id == enterprise_id)
    return next((name for name in filed if name), enterprise_id)
