"""What an Alertmanager that was away, or died, makes its receivers hear: each alert firing once, then resolved once."""

import asyncio
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.contract import Alert, AlertState, LegalBasis, Severity, Wording
from streams.noc import backlog as backlog_module
from streams.noc.alertmanager import AlertmanagerPush
from streams.noc.backlog import IN_DOUBT_MS, LASTS_MS, MOST_TEXT, SHOWN_MS, Backlog, Word

START_MS = 1_790_000_000_000
TICK_MS = 30_000  # a repeat
LOOK_MS = 300_000  # Alertmanager's default group_interval


def alert(number: int, state: AlertState = AlertState.OPEN, **changes: Any) -> Alert:
    opened = Alert(
        alert_id=f"unfiled-{number:016x}",
        detector="signature",
        rule="unfiled",
        state=state,
        severity=Severity.WARNING,
        access_port=f"1069{number:06d}",
        ports=[f"1069{number:06d}"],
        first_seen_ms=START_MS - 60_000,
        last_seen_ms=START_MS,
        detected_event_ms=START_MS,
        summary=Wording("840 submits in 1 min under a name that nobody filed", "未报备签名"),
        evidence={"observed": 840, "samples": ["【某某科技】您的验证码是******"] * 15},
        runbook="docs/runbooks.md#unfiled",
        legal_basis=[LegalBasis("工信部 2021-10-25 行政指导会", "规范签名使用", "2021-10-25")],
    )
    return replace(opened, **changes)


def told(number: int, over_ms: int | None = None) -> Word:
    return Word.of(alert(number, AlertState.OPEN if over_ms is None else AlertState.RESOLVED), over_ms)


def ends_ms(backlog: Backlog, now_ms: int) -> list[int]:
    """When what is said now would end, from now."""
    posts = orjson.loads(backlog.post(backlog.first(1_000), now_ms))
    return [round(datetime.fromisoformat(post["endsAt"]).timestamp() * 1_000) - now_ms for post in posts]


# ---- one alert


def test_the_newest_word_on_an_alert_is_the_one_that_is_said() -> None:
    backlog = Backlog()
    words = [told(1), told(2), Word.of(alert(1, AlertState.UPDATED, runbook="newer"))]
    for word in words:
        assert backlog.tell(word) == []
    assert backlog.first(10) == [words[2], words[1]]
    backlog.heard(words[:2], START_MS)
    assert backlog.first(10) == [words[2]]  # it came while an older one was on its way


def test_what_nobody_saw_firing_ends_ahead_of_now() -> None:
    backlog = Backlog()
    backlog.tell(told(1, START_MS - 600_000))
    assert ends_ms(backlog, START_MS) == [SHOWN_MS]


@pytest.mark.parametrize(("shown_ms", "expected_ms"), [(10_000, SHOWN_MS - 10_000), (SHOWN_MS + 5, 0)])
def test_what_was_seen_firing_for_long_enough_ends_when_it_ended(shown_ms: int, expected_ms: int) -> None:
    backlog = Backlog()
    backlog.tell(told(1))
    assert ends_ms(backlog, START_MS) == [LASTS_MS]
    backlog.heard(backlog.first(1), START_MS)
    backlog.tell(told(1, START_MS + shown_ms))
    assert ends_ms(backlog, START_MS + shown_ms) == [expected_ms]
    backlog.heard(backlog.first(1), START_MS + shown_ms)
    assert len(backlog) == 0


def test_a_clock_that_is_set_back_lets_nothing_fire_for_an_hour() -> None:
    backlog = Backlog()
    backlog.tell(told(1))
    backlog.heard(backlog.first(1), START_MS)
    backlog.tell(told(1, START_MS - 3_600_000))
    assert ends_ms(backlog, START_MS - 3_600_000) == [SHOWN_MS]


def test_what_it_heard_last_before_it_went_is_said_again() -> None:
    backlog = Backlog()
    for number in range(3):
        backlog.tell(told(number))
        backlog.heard(backlog.first(1), START_MS)
    backlog.tell(told(0, over_ms := START_MS + SHOWN_MS))  # it fired for long enough
    backlog.tell(told(1, over_ms))
    backlog.heard(backlog.first(2), over_ms)
    backlog.doubt(over_ms + 10_000)
    assert ends_ms(backlog, over_ms + 10_000) == [-10_000, -10_000]
    backlog.heard(backlog.first(2), over_ms + 20_000)
    backlog.doubt(over_ms + 20_000 + SHOWN_MS)  # it has looked at them since
    assert len(backlog) == 0


def test_an_end_is_said_again_until_it_was_looked_at() -> None:
    backlog = Backlog()
    backlog.tell(told(1, START_MS))
    backlog.heard(backlog.first(1), START_MS)
    for passed_ms, expected_ms in (
        (30_000, [SHOWN_MS - 30_000]),
        (2 * SHOWN_MS - 1, [1 - SHOWN_MS]),
        (2 * SHOWN_MS, []),
    ):
        backlog.repeat([], START_MS + passed_ms)
        assert ends_ms(backlog, START_MS + passed_ms) == expected_ms


def test_a_post_that_has_not_arrived_for_certain_is_ended_all_the_same() -> None:
    backlog = Backlog()
    backlog.tell(told(1))
    backlog.heard(backlog.first(1), START_MS)
    backlog.doubt(START_MS + 1)
    assert backlog._fires_until_ms == {told(1).labels: IN_DOUBT_MS}
    backlog.replace(told(1), START_MS + 2)
    assert ends_ms(backlog, START_MS + 2) == [0]
    never_said = told(2)
    backlog.tell(never_said)
    backlog.replace(never_said, START_MS + 2)
    assert never_said not in backlog.first(10)


def test_hostile_texts_are_posted_and_long_ones_are_cut_with_a_note() -> None:
    text = 'a\x00\ud800"}\n{{ .Labels }}\u202e'
    word = Word.of(alert(1, summary=Wording(text, "某" * MOST_TEXT), evidence={"note": "x" * 1_000_000}))
    (post,) = orjson.loads(Backlog().post([word], START_MS))
    assert post["annotations"]["summary"] == text.replace("\ud800", "?")
    cut = f"… ({3 * MOST_TEXT} bytes, whole in the topic of alerts)"
    assert post["annotations"]["summary_zh"] == "某" * (MOST_TEXT // 3) + cut
    assert post["annotations"]["evidence"].endswith("… (1000011 bytes, whole in the topic of alerts)")
    assert len(word.annotations) < 3 * MOST_TEXT


# ---- many alerts


def test_beyond_the_bound_evidence_goes_first_and_then_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "MOST_WHOLE", 2)
    monkeypatch.setattr(backlog_module, "MOST_SHED", 3)
    backlog, lost = Backlog(), Counter[str]()
    backlog.tell(told(99))
    for number in range(7):
        lost.update(backlog.tell(told(number, START_MS)))
    assert lost == {"shed": 5, "dropped": 2}
    posts = orjson.loads(backlog.post(backlog.first(10), START_MS))
    assert [post["labels"]["port"][-2:] for post in posts] == ["99", "05", "06", "02", "03", "04"]
    assert ["evidence" in post["annotations"] for post in posts] == [True, True, True, False, False, False]
    assert posts[-1]["annotations"]["ended"] == posts[1]["annotations"]["ended"]
    backlog.heard(backlog.first(10), START_MS)
    assert len(backlog) == 0


def test_a_hundred_thousand_events_while_it_is_away_cost_less_than_80_mb() -> None:
    """50,000 alerts, of 1.7 kB as posted; whole they would be 90 MB, and as detectors hand them out five times that."""
    losses: Counter[str] = Counter()
    push = AlertmanagerPush(["http://127.0.0.1:9"], lambda: START_MS, lambda outcome: losses.update([outcome]))
    before = psutil.Process().memory_info().rss
    for number in range(50_000):
        push.tell([alert(number)])
        push.tell([alert(number, AlertState.RESOLVED)])
    assert (push.pending, push.most_pending, losses) == (50_000, backlog_module.MOST_WHOLE, {"shed": 40_000})
    assert psutil.Process().memory_info().rss - before < 80_000_000


# ---- the law


@dataclass
class Notifier:
    """Alertmanager as far as it matters: alerts in memory, what it notified of on disk, a look at its group each 5 min.

    tests/observability/test_alertmanager.py holds the real one to the same.
    """

    is_up: bool = True
    ends_ms: dict[tuple[str, str], int] = field(default_factory=dict)  # of the alerts, by id and severity
    notified: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def take(self, body: bytes, now_ms: int) -> None:
        for post in orjson.loads(body):
            key = (post["labels"]["alert_id"], post["labels"]["severity"])
            ends = round(datetime.fromisoformat(post["endsAt"]).timestamp() * 1_000)
            # Of two ends ahead the later holds, whichever came last; an end that has passed holds against both.
            self.ends_ms[key] = max(ends, self.ends_ms.get(key, ends)) if ends > now_ms else ends

    def look(self, now_ms: int) -> None:
        for key, ends_ms in self.ends_ms.items():
            said, status = self.notified[key], "firing" if ends_ms > now_ms else "resolved"
            if said[-1:] != [status] and (said or status == "firing"):
                said.append(status)

    def go(self, what: str) -> None:
        """It may die and live again; a restart goes unnoticed."""
        self.is_up = what != "die"
        if what != "live":
            self.ends_ms.clear()


class Outage:
    """A push, the Alertmanager it posts to, and what lies between."""

    def __init__(self, phase: int) -> None:
        self.now_ms = START_MS
        self.looks_at_ms = START_MS + phase * TICK_MS
        self.server = Notifier()
        self.losses: Counter[str] = Counter()
        self.push = AlertmanagerPush(["http://am:9093"], lambda: self.now_ms, lambda it: self.losses.update([it]))
        self.push._post = self.post  # type: ignore[assignment,method-assign] # the network
        self.loses_answers = self.answers_lost = False
        self.open: dict[int, Severity] = {}
        self.over: set[int] = set()

    async def post(self, _session: object, peer: Any, words: list[Word]) -> tuple[int | None, str]:
        if not self.server.is_up:
            return None, "ClientConnectorError"
        self.server.take(peer.backlog.post(words, self.now_ms), self.now_ms)
        self.answers_lost |= self.loses_answers
        return (None, "TimeoutError") if self.loses_answers else (200, "200")

    async def tick(self) -> None:
        (peer,) = self.push._peers
        self.push._repeat(peer)
        await self.deliver()
        self.now_ms += TICK_MS
        if self.server.is_up and self.now_ms >= self.looks_at_ms:
            self.server.look(self.now_ms)
            self.looks_at_ms = self.now_ms + LOOK_MS

    async def deliver(self) -> None:
        (peer,) = self.push._peers
        await self.push._deliver_to(None, peer)  # type: ignore[arg-type] # there is no network
        assert len(peer.backlog) <= self.push.most_pending + backlog_module.MOST_SHED

    def tell(self, number: int, *, over: bool = False, rises: bool = False) -> None:
        before = self.open.pop(number, None)
        state = AlertState.RESOLVED if over else AlertState.UPDATED if before else AlertState.OPEN
        severity = Severity.CRITICAL if rises else before or Severity.WARNING
        if over:
            self.over.add(number)
        else:
            self.open[number] = severity
        self.push.tell([alert(number, state, severity=severity, last_seen_ms=self.now_ms)])


NUMBERS = st.integers(0, 5)
STEPS = st.one_of(
    *[st.tuples(st.just(step), NUMBERS) for step in ("tell", "tell", "rise", "end", "end")],
    st.tuples(st.just("wait"), st.integers(1, 25)),
    st.tuples(st.sampled_from(["deliver", "die", "live", "restart", "lose answers", "hear answers"]), st.none()),
)


async def lived_through(steps: list[tuple[str, int | None]], phase: int) -> Outage:
    """The world after the steps and ten good minutes."""
    world = Outage(phase)
    for step, number in [*steps, ("live", None), ("hear answers", None), ("wait", 25)]:
        match step, number:
            case "tell", int() if number not in world.over:
                world.tell(number)
            case "rise" | "end", int() if number in world.open:
                world.tell(number, over=step == "end", rises=step == "rise")
            case "wait", int():
                for _ in range(number):
                    await world.tick()
            case "deliver", None:
                await world.deliver()
            case "die" | "live" | "restart", None:
                world.server.go(step)
            case "lose answers" | "hear answers", None:
                world.loses_answers = step == "lose answers"
    return world


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEPS, min_size=15, max_size=60), phase=st.integers(0, 10))
def test_whatever_dies_each_alert_is_heard_to_fire_and_then_to_be_resolved(
    steps: list[tuple[str, int | None]], phase: int
) -> None:
    """No alert and no end of one is missing if Alertmanager lives for ten minutes at last.

    None is told twice, unless an answer got lost: then what was heard looks as if it had not been.
    """
    world = asyncio.run(lived_through(steps, phase))
    notified, life = world.server.notified, ["firing", "resolved"]
    for number in world.over | world.open.keys():
        warning, critical = (notified[alert(number).alert_id, severity] for severity in ("warning", "critical"))
        last = critical or warning
        if number in world.over:
            assert last == life * max(1, world.answers_lost * len(last) // 2)
        else:
            assert last == life * (world.answers_lost * len(last) // 2) + ["firing"]
        if critical:  # what it rose from may have gone unseen
            assert warning == life * (len(warning) // 2 if world.answers_lost else min(1, len(warning)))
    assert world.push.pending == 0
    assert world.losses.keys() <= {"ok", "unreachable"}
