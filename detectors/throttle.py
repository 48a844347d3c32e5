"""From alerts to throttle proposals: what we would ask a gateway to do, within limits that protect the network.

A proposal expires by itself, never touches a protected port, and can't exceed the limits on concurrent throttles and on
the share of traffic. Everything is dry-run: enforcing is another room's errand.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from detectors.catalog import MINUTE_MS, RULES
from detectors.contract import PANE_MS, Action, Alert, Command
from detectors.registry import Registry


@dataclass(frozen=True, slots=True)
class ThrottlePolicy:
    """The limits, per partition."""

    lasts_ms: int = 15 * MINUTE_MS
    most_at_once: int = 20
    most_share_ratio: float = 0.3  # of the partition's submits that throttled ports may have together


@dataclass(slots=True)
class Standing:
    """A throttle that was proposed and has not expired."""

    command: Command
    alert: Alert
    share_ratio: float


@dataclass(slots=True)
class Throttles:
    """The throttles of one partition that stand, by access port, and how many were held back by which limit."""

    standing: dict[str, Standing] = field(default_factory=dict)
    held_back: dict[str, int] = field(default_factory=dict)


def release(throttles: Throttles, resolved: Iterable[Alert]) -> Iterator[Command]:
    """Lift the throttles of alerts that are over. Depends on the alerts alone, not on when they are looked at."""
    for alert in resolved:
        standing = throttles.standing.get(alert.access_port or "")
        if standing and standing.alert.alert_id == alert.alert_id:
            del throttles.standing[standing.command.access_port]
            over_ms = RULES[alert.rule].ends_ms(alert.last_seen_ms - PANE_MS)
            yield _command(Action.RELEASE, alert, limit_per_s=None, from_ms=over_ms, to_ms=over_ms)


def renew(policy: ThrottlePolicy, throttles: Throttles, now_ms: int, registry: Registry) -> Iterator[Command]:
    """Propose again what expired while its alert is still open (else it would have been released).

    A port that the registry protects by now is released at once.
    """
    for port, standing in list(throttles.standing.items()):
        if _is_protected(port, registry, now_ms):
            del throttles.standing[port]
            _hold_back(throttles, "protected")
            yield _command(Action.RELEASE, standing.alert, limit_per_s=None, from_ms=now_ms, to_ms=now_ms)
        elif standing.command.expires_event_ms <= now_ms:
            alert, limit = standing.alert, standing.command.limit_per_s
            command = _command(
                Action.THROTTLE, alert, limit_per_s=limit, from_ms=now_ms, to_ms=now_ms + policy.lasts_ms
            )
            throttles.standing[port] = Standing(command, alert, standing.share_ratio)
            yield command


def propose(
    policy: ThrottlePolicy,
    throttles: Throttles,
    told: Iterable[Alert],
    *,
    now_ms: int,
    submits_per_s: float,
    registry: Registry,
) -> Iterator[Command]:
    """The throttles that newly told alerts ask for. `submits_per_s` is the rate of the whole partition in the pane."""
    for alert in told:
        threshold = RULES[alert.rule].throttle_from
        if threshold is None or alert.access_port is None or alert.severity.rank < threshold.rank:
            continue
        if alert.access_port in throttles.standing:
            continue
        share = _share(alert, submits_per_s)
        is_protected = _is_protected(alert.access_port, registry, now_ms)
        if limit := _limit_reached(policy, throttles, share, is_protected=is_protected):
            _hold_back(throttles, limit)
            continue
        command = _command(
            Action.THROTTLE, alert, limit_per_s=_usual_per_s(alert), from_ms=now_ms, to_ms=now_ms + policy.lasts_ms
        )
        throttles.standing[alert.access_port] = Standing(command, alert, share)
        yield command


def _limit_reached(policy: ThrottlePolicy, throttles: Throttles, share: float, *, is_protected: bool) -> str | None:
    """The name of the limit that forbids one more throttle, or None."""
    if is_protected:
        return "protected"
    if len(throttles.standing) >= policy.most_at_once:
        return "most_at_once"
    if share + sum(s.share_ratio for s in throttles.standing.values()) > policy.most_share_ratio:
        return "most_share_ratio"
    return None


def _is_protected(port: str, registry: Registry, at_ms: int) -> bool:
    lease = registry.lease(port, at_ms)
    return lease is not None and lease.protected


def _hold_back(throttles: Throttles, limit: str) -> None:
    throttles.held_back[limit] = throttles.held_back.get(limit, 0) + 1


def _share(alert: Alert, submits_per_s: float) -> float:
    observed_per_s = float(alert.evidence["observed"]) / float(alert.evidence["scale_s"])
    return min(1.0, observed_per_s / submits_per_s) if submits_per_s > 0 else 1.0


def _usual_per_s(alert: Alert) -> float:
    """The upper end of what is usual for the port, so that its own traffic passes; at least one in ten seconds."""
    return round(max(0.1, float(alert.evidence["high"]) / float(alert.evidence["scale_s"])), 2)


def _command(action: Action, alert: Alert, *, limit_per_s: float | None, from_ms: int, to_ms: int) -> Command:
    identity = f"{action}|{alert.alert_id}|{from_ms}"
    return Command(
        command_id=hashlib.blake2b(identity.encode(), digest_size=8).hexdigest(),
        action=action,
        access_port=alert.access_port or "",
        limit_per_s=limit_per_s,
        alert_id=alert.alert_id,
        reason=alert.rule,
        issued_event_ms=from_ms,
        expires_event_ms=to_ms,
    )
