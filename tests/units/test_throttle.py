"""Proposals expire, respect the limits and are lifted with their alert."""

from dataclasses import replace

import pytest

from detectors.contract import Action, Alert, AlertState, Command, Severity, Wording
from detectors.registry import PortLease, Registry
from detectors.throttle import ThrottlePolicy, Throttles, propose, release, renew

ALERT = Alert(
    alert_id="volume-flash-1",
    detector="volume",
    rule="volume-flash",
    state=AlertState.OPEN,
    severity=Severity.CRITICAL,
    access_port="10690010",
    ports=["10690010"],
    first_seen_ms=0,
    last_seen_ms=10_000,
    detected_event_ms=20_000,
    summary=Wording("", ""),
    evidence={"observed": 1_000, "high": 120, "scale_s": 60},
    runbook="",
)
POLICY = ThrottlePolicy(lasts_ms=60_000, most_at_once=2, most_share_ratio=0.5)


@pytest.fixture
def throttles() -> Throttles:
    return Throttles()


def ask(
    throttles: Throttles, *alerts: Alert, submits_per_s: float = 1_000.0, registry: Registry | None = None
) -> list[Command]:
    return list(
        propose(
            POLICY,
            throttles,
            alerts,
            now_ms=50_000,
            submits_per_s=submits_per_s,
            registry=registry or Registry(),
        )
    )


def test_a_critical_flood_is_throttled_to_what_is_usual_for_a_while(throttles: Throttles) -> None:
    (command,) = ask(throttles, ALERT)
    assert (command.action, command.access_port, command.limit_per_s) == (Action.THROTTLE, "10690010", 2.0)
    assert (command.issued_event_ms, command.expires_event_ms, command.mode) == (50_000, 110_000, "dry_run")


@pytest.mark.parametrize(
    "alert",
    [replace(ALERT, severity=Severity.WARNING), replace(ALERT, rule="unfiled"), replace(ALERT, access_port=None)],
)
def test_nothing_is_proposed_for_less(throttles: Throttles, alert: Alert) -> None:
    assert ask(throttles, alert) == []


def test_a_protected_port_is_never_touched(throttles: Throttles) -> None:
    registry = Registry(ports=(PortLease(access_port="10690010", protected=True),))
    assert ask(throttles, ALERT, registry=registry) == []
    assert throttles.held_back == {"protected": 1}


def test_no_more_than_so_many_at_once(throttles: Throttles) -> None:
    alerts = [replace(ALERT, alert_id=str(n), access_port=f"1069001{n}") for n in range(3)]
    assert [command.access_port for command in ask(throttles, *alerts)] == ["10690010", "10690011"]
    assert throttles.held_back == {"most_at_once": 1}


def test_no_more_than_a_share_of_the_traffic(throttles: Throttles) -> None:
    assert len(ask(throttles, ALERT, submits_per_s=50.0)) == 1  # 16.7 of 50 a second: a third
    assert ask(throttles, replace(ALERT, alert_id="2", access_port="10690011"), submits_per_s=50.0) == []
    assert throttles.held_back == {"most_share_ratio": 1}


def test_it_is_renewed_while_the_alert_is_open(throttles: Throttles) -> None:
    (first,) = ask(throttles, ALERT)
    assert list(renew(POLICY, throttles, 109_999, Registry())) == []
    (second,) = renew(POLICY, throttles, 110_000, Registry())
    assert (second.limit_per_s, second.expires_event_ms) == (first.limit_per_s, 170_000)
    assert second.command_id != first.command_id


def test_it_is_lifted_when_the_registry_begins_to_protect_the_port(throttles: Throttles) -> None:
    ask(throttles, ALERT)
    registry = Registry(ports=(PortLease(access_port="10690010", protected=True, effective_from=70_000),))
    assert list(renew(POLICY, throttles, 69_999, registry)) == []
    (command,) = renew(POLICY, throttles, 70_000, registry)
    assert (command.action, command.access_port, command.issued_event_ms) == (Action.RELEASE, "10690010", 70_000)
    assert list(renew(POLICY, throttles, 200_000, registry)) == []
    assert list(release(throttles, [replace(ALERT, state=AlertState.RESOLVED)])) == []
    assert throttles.held_back == {"protected": 1}


def test_it_is_lifted_once_when_its_alert_is_over(throttles: Throttles) -> None:
    ask(throttles, ALERT)
    other = replace(ALERT, alert_id="another episode", state=AlertState.RESOLVED)
    assert list(release(throttles, [other])) == []
    over = replace(ALERT, state=AlertState.RESOLVED)
    (command,) = release(throttles, [over, over])
    assert (command.action, command.access_port, command.limit_per_s) == (Action.RELEASE, "10690010", None)
