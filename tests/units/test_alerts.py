"""One episode is one alert, with an id that depends on the episode alone."""

from dataclasses import replace

import pytest

from detectors.alerts import Episodes
from detectors.contract import PANE_MS, AlertState, Finding, Severity, Wording

FINDING = Finding(
    rule="volume-flash",
    severity=Severity.WARNING,
    at_ms=1_000_000,
    access_port="10690010",
    size=10.0,
    summary=Wording("much", "多"),
    evidence={"observed": 10},
    offsets=(7,),
)
QUIET_MS = 600_000


def later(panes: int, **changes: object) -> Finding:
    return replace(FINDING, at_ms=FINDING.at_ms + panes * PANE_MS, **changes)  # type: ignore[arg-type]


@pytest.fixture
def episodes() -> Episodes:
    return Episodes("sms.submit.v1", 3)


def tell(episodes: Episodes, *findings: Finding) -> list[tuple[AlertState, Severity]]:
    return [(alert.state, alert.severity) for alert in episodes.tell(findings, 0)]


def test_an_episode_opens_once_and_goes_on_silently(episodes: Episodes) -> None:
    assert tell(episodes, FINDING) == [(AlertState.OPEN, Severity.WARNING)]
    assert tell(episodes, later(1), later(2)) == []


def test_it_is_told_again_when_severity_rises_or_size_grows_tenfold(episodes: Episodes) -> None:
    tell(episodes, FINDING)
    assert tell(episodes, later(1, severity=Severity.CRITICAL)) == [(AlertState.UPDATED, Severity.CRITICAL)]
    assert tell(episodes, later(2, size=99.0)) == []
    assert tell(episodes, later(3, size=100.0)) == [(AlertState.UPDATED, Severity.CRITICAL)]
    assert tell(episodes, later(4, size=100.0)) == []


def test_it_is_resolved_after_the_rules_own_quiet_time_and_then_begins_anew(episodes: Episodes) -> None:
    (opened,) = episodes.tell([FINDING], 0)
    end_ms = FINDING.at_ms + PANE_MS
    assert list(episodes.resolve(end_ms + QUIET_MS - 1, 0)) == []
    (resolved,) = episodes.resolve(end_ms + QUIET_MS, 5)
    assert (resolved.alert_id, resolved.state) == (opened.alert_id, AlertState.RESOLVED)
    assert (resolved.first_seen_ms, resolved.last_seen_ms) == (FINDING.at_ms, end_ms)
    (again,) = episodes.tell([later(100)], 0)
    assert again.alert_id != opened.alert_id


def test_the_id_is_the_same_for_the_same_episode_wherever_it_is_told(episodes: Episodes) -> None:
    (here,) = episodes.tell([FINDING], 0)
    (there,) = Episodes("other", 0).tell([replace(FINDING, size=1.0, evidence={})], 9)
    assert here.alert_id == there.alert_id


def test_extensions_are_one_episode_unless_the_rule_is_about_them(episodes: Episodes) -> None:
    assert len(tell(episodes, later(0, extension="1"), later(0, extension="2"))) == 1
    walks = [later(0, rule="second-signature", extension=e) for e in ("1", "2")]
    assert len(tell(episodes, *walks)) == 2


def test_open_episodes_have_a_ceiling_and_what_is_beyond_it_is_counted() -> None:
    episodes = Episodes("t", 0, limit=1)
    assert len(tell(episodes, FINDING, later(0, access_port="10690011"))) == 1
    assert episodes.untold == 1


def test_samples_say_where_they_stand(episodes: Episodes) -> None:
    (alert,) = episodes.tell([FINDING], 0)
    assert [(s.topic, s.partition, s.offset) for s in alert.source] == [("sms.submit.v1", 3, 7)]
