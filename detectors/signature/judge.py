"""May this port, under this extension and by this carrier, carry this name? One group, one moment, one answer.

The most specific thing that is wrong gives the rule; what else is wrong stands in `also`. What is not loaded judges
nobody: without leases no port is unregistered, without filings no name is unfiled.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from detectors.groups import GroupKey
from detectors.registry import IN_FORCE, Filing, PortLease, Registry, in_force, within
from detectors.signature.extract import Form
from detectors.signature.masking import shown

_STATES = {-2: "not filed", -1: "being filed", 0: "failed", 1: "to be verified", 2: "expired for want of traffic"}
_SHOWN = 5
_READ = 1_000  # of the filings of one name; a chain has one for every port it sends from


@dataclass(frozen=True, slots=True)
class Judgement:
    """`rule` None: all is well. `name_rule` is what is wrong with the name alone, `name` what a handset shows."""

    rule: str | None
    name: str | None
    name_rule: str | None = None
    because: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    lessee_id: str | None = None


def offence(key: GroupKey, registry: Registry, at_ms: int) -> Judgement | None:
    """The judgement where there is something wrong."""
    found = judge(key, registry, at_ms)
    return found if found.rule else None


def judge(key: GroupKey, registry: Registry, at_ms: int) -> Judgement:
    lease = registry.lease(key.access_port, at_ms)
    name, name_rule, because = _judge_name(key, lease, registry, at_ms)
    port_rule, port_because = _judge_port(lease, registry, at_ms)
    rules = [rule for rule in (name_rule, port_rule) if rule]
    if port_rule == "port-unregistered":  # nothing that is filed for such a port can be looked up
        rules.reverse()
        because = port_because
    return Judgement(
        rule=rules[0] if rules else None,
        name=name,
        name_rule=name_rule,
        because=because if name_rule else port_because,
        also=tuple(rules[1:]),
        lessee_id=lease.lessee_id if lease else None,
    )


def authorising(key: GroupKey, lease: PortLease | None, registry: Registry, at_ms: int) -> list[Filing]:
    """The filings in force that allow a group its name: on its extension, else on any; or what the gateway appends."""
    if key.signature is None:
        filed = [f for f in registry.gateway_filings(key.access_port, at_ms) if _is_for_full_port(f, key, lease)]
    else:
        on_port = registry.history_on_port(key.access_port, key.signature)
        filed = [f for f in on_port if in_force(f, at_ms) and _fits_extension(f, key, lease)]
    allowed = [filing for filing in filed if _fits_carrier(filing, key)]
    return [filing for filing in allowed if filing.extension == key.extension] or allowed


_Answer = tuple[str | None, Mapping[str, Any]]


def _judge_port(lease: PortLease | None, registry: Registry, at_ms: int) -> _Answer:
    if not registry.ports:
        return None, {}
    if lease is None:
        return "port-unregistered", {}
    dates = {"authorised_from_ms": lease.authorised_from, "authorised_to_ms": lease.authorised_to, "state": lease.state}
    if lease.state == "offline" or not within(at_ms, lease.authorised_from, lease.authorised_to):
        return "port-unauthorised", dates
    return None, {}


def _judge_name(
    key: GroupKey, lease: PortLease | None, registry: Registry, at_ms: int
) -> tuple[str | None, str | None, Mapping[str, Any]]:
    if key.form == Form.UNJUDGED or not registry.filings:
        return key.signature, None, {}
    if key.signature is None:
        return _judge_nameless(key, lease, registry, at_ms)
    return (key.signature, *_judge_named(key, key.signature, lease, registry, at_ms))


def _judge_nameless(
    key: GroupKey, lease: PortLease | None, registry: Registry, at_ms: int
) -> tuple[str | None, str | None, Mapping[str, Any]]:
    appended = {
        filing.signature
        for filing in registry.gateway_filings(key.access_port, at_ms)
        if _is_for_full_port(filing, key, lease) and _fits_carrier(filing, key)
    }
    if len(appended) == 1 and key.form == Form.NONE:
        return appended.pop(), None, {}
    if lease is None:
        return None, None, {}
    return None, "missing", {"gateway_signatures": [shown(name) for name in sorted(appended)[:_SHOWN]]}


def _judge_named(
    key: GroupKey, signature: str, lease: PortLease | None, registry: Registry, at_ms: int
) -> tuple[str | None, Mapping[str, Any]]:
    on_port = registry.history_on_port(key.access_port, signature)
    on_full_port = [filing for filing in on_port if _fits_extension(filing, key, lease)]
    if any(in_force(filing, at_ms) and _fits_carrier(filing, key) for filing in on_full_port):
        return None, {}
    if on_full_port:
        return "not-in-force", _why_not(on_full_port, at_ms)
    if others := [filing for filing in on_port if in_force(filing, at_ms)]:
        return "extension-unfiled", {"filed_extensions": _some(filing.extension for filing in others)}
    elsewhere = registry.history_of_signature(signature)
    if any(in_force(filing, at_ms) for filing in elsewhere):
        return "wrong-port", {
            "filed_on": _some(filing.access_port for filing in elsewhere if in_force(filing, at_ms)),
            "filed_by": _some(shown(f.enterprise_name) if f.enterprise_name else f.enterprise_id for f in elsewhere),
        }
    return "unfiled", {"filings_not_in_force": len(elsewhere)} if elsewhere else {}


def _fits_extension(filing: Filing, key: GroupKey, lease: PortLease | None) -> bool:
    """On a port that allows self-extension a name filed on the main port may use any extension."""
    return filing.extension == key.extension or lease is None or lease.allow_self_extension


def _is_for_full_port(filing: Filing, key: GroupKey, lease: PortLease | None) -> bool:
    """Unlike names in texts, what the gateway appends on one extension says nothing about the others."""
    return filing.extension == key.extension or (filing.extension is None and _fits_extension(filing, key, lease))


def _fits_carrier(filing: Filing, key: GroupKey) -> bool:
    return filing.carrier is None or key.carrier is None or filing.carrier == key.carrier


def _why_not(filings: Sequence[Filing], at_ms: int) -> Mapping[str, Any]:
    """Why none of these authorises: the wrong carrier, else what the newest of them lacks."""
    if carriers := sorted({filing.carrier for filing in filings if in_force(filing, at_ms) and filing.carrier}):
        return {"reason": "filed for other carriers", "carriers": carriers}
    newest = max(filings, key=lambda filing: filing.effective_from or 0)
    if newest.state != IN_FORCE:
        return {"reason": _STATES.get(newest.state, "unknown state"), "state": newest.state}
    if newest.effective_from is not None and at_ms < newest.effective_from:
        return {"reason": "not yet", "effective_from_ms": newest.effective_from}
    return {"reason": "ended", "effective_to_ms": newest.effective_to}


def _some(values: Iterable[str | None]) -> list[str | None]:
    """The first few different values."""
    return list(islice(dict.fromkeys(islice(values, _READ)), _SHOWN))
