"""What one Alertmanager has still to hear: the newest word on each alert, so that an absence costs little memory.

Nothing is lost by keeping one word for each. Alertmanager itself makes the two notifications of an alert, firing and
resolved, out of `startsAt` and `endsAt`; all it needs is to see the alert firing at one of the moments at which it
looks. So an alert that is over, but has not been heard for so long, ends a little ahead of now instead of in the past.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any, NamedTuple, Self

import orjson

from detectors.catalog import RULES
from detectors.contract import Alert

LASTS_MS = 120_000
"""Alertmanager ends an alert that was not said again for so long, four repeats: our death resolves nothing at once."""

SHOWN_MS = 330_000
"""An alert fires for so long at least from when it was heard first: Alertmanager's default `group_interval`, 5 min, and
a tenth more. It looks at a group that it knows only so often; of an alert that begins and ends between two looks nobody
is told, or only that it is over (measured on 0.25). A longer `group_interval` brings that back."""

MOST_WHOLE = 10_000
"""Alerts that are over and wait with all that is known of them, 1.7 kB each (measured). Beyond it the oldest shed
what a person reads, and keep identity and times. The open ones, bounded by `Episodes.limit`, wait beside them."""

MOST_SHED = 100_000
"""Alerts that wait with identity and times alone, 0.6 kB each (measured); beyond it the oldest are dropped."""

MOST_TEXT = 8_000
"""Bytes of one annotation. The longest evidence that the simulator's scenarios bring about has 2,300 (measured)."""

IN_DOUBT_MS = 2**63 - 1
"""In place of the time until which an alert fires: it was posted, but who knows whether it was seen."""

SHED_TEXT = "Alertmanager was away for too long to keep more than this; the whole alert is in the topic of alerts."


def labels(alert: Alert) -> dict[str, str]:
    """The identity of an alert, which its updates keep: an episode is an alert of its own, and so is each severity."""
    return {
        "alertname": alert.rule,
        "alert_id": alert.alert_id,
        "detector": alert.detector,
        "severity": alert.severity,
        **({"port": alert.access_port} if alert.access_port else {}),
        **({"extension": alert.extension} if alert.extension and RULES[alert.rule].per_extension else {}),
    }


def annotations(alert: Alert) -> dict[str, str]:
    """What a person reads: words, evidence, what to do. Texts in the evidence are masked already."""
    return {
        "alert_id": alert.alert_id,
        "summary": alert.summary.en,
        "summary_zh": alert.summary.zh,
        "evidence": orjson.dumps(alert.evidence, option=orjson.OPT_SERIALIZE_NUMPY).decode(),
        "ruled_out": "; ".join(wording.en for wording in alert.ruled_out),
        "legal_basis": "; ".join(f"{basis.law} {basis.article}" for basis in alert.legal_basis),
        "extension": alert.extension or "",
        "lessee": alert.lessee_id or "",
        "runbook": alert.runbook,
    }


class Word(NamedTuple):
    """The newest that is to say of an alert: its labels and annotations as JSON, and its times."""

    labels: bytes
    annotations: bytes
    first_seen_ms: int
    over_ms: int | None  # wall clock at which it ended; None while it is open

    @classmethod
    def of(cls, alert: Alert, over_ms: int | None = None) -> Self:
        return cls(_json(labels(alert)), _json(annotations(alert) | _ended(over_ms)), alert.first_seen_ms, over_ms)

    def shed(self) -> Self:
        return self._replace(annotations=_json({"summary": SHED_TEXT} | _ended(self.over_ms)))


class _Said(NamedTuple):
    """That an alert is over was heard, but perhaps not looked at yet."""

    word: Word
    until_ms: int  # as long it is said again


class Backlog:
    """Times that are handed in are of the wall clock; `len` is the number of words that wait."""

    def __init__(self) -> None:
        # By labels; what has waited longest comes first. An alert is in one of the first four.
        self._firing: dict[bytes, Word] = {}
        self._over: dict[bytes, Word] = {}
        self._shed: dict[bytes, Word] = {}
        self._said: dict[bytes, _Said] = {}
        self._again: dict[bytes, Word] = {}  # of the said
        self._fires_until_ms: dict[bytes, int] = {}  # of what was posted as firing, and of the said

    def __len__(self) -> int:
        return len(self._firing) + len(self._over) + len(self._shed)

    def tell(self, word: Word) -> list[str]:
        """Take a word in place of any older one on the same alert. Returns what becomes of others: shed, dropped."""
        waiting = self._firing if word.over_ms is None else self._over
        for older in (self._firing, self._over, self._shed, self._said, self._again):
            if older is not waiting:
                older.pop(word.labels, None)
        waiting[word.labels] = word
        return list(self._make_room())

    def repeat(self, still_open: Iterable[Word], now_ms: int) -> None:
        """Say again what is open, and that something is over for as long as Alertmanager may not have looked.

        It may have died and come back unnoticed. (Prometheus repeats what is resolved for 15 min.)
        """
        for word in still_open:
            self.tell(word)
        self._retire(now_ms)
        self._again = {key: said.word for key, said in self._said.items()}

    def _make_room(self) -> Iterator[str]:
        while len(self._over) > MOST_WHOLE:
            word = self._over.pop(next(iter(self._over)))
            self._shed[word.labels] = word.shed()
            yield "shed"
        while len(self._shed) > MOST_SHED:
            word = self._shed.pop(next(iter(self._shed)))
            self._fires_until_ms.pop(word.labels, None)
            yield "dropped"

    def replace(self, word: Word, now_ms: int) -> None:
        """Another takes the place of this open alert, so it ends at once, or was never heard of."""
        if word.labels in self._fires_until_ms:
            self._fires_until_ms[word.labels] = now_ms
            self.tell(word._replace(over_ms=now_ms))
        else:
            self._firing.pop(word.labels, None)

    def forget(self, word: Word) -> None:
        """Somebody else speaks of this open alert now."""
        self._firing.pop(word.labels, None)
        self._fires_until_ms.pop(word.labels, None)

    def first(self, most: int) -> list[Word]:
        """What to say next: what is open goes before what is over."""
        waiting = (self._firing, self._over, self._shed, self._again)
        return list(islice(chain.from_iterable(words.values() for words in waiting), most))

    def post(self, words: Iterable[Word], now_ms: int) -> bytes:
        """The words as the body of a post to `/api/v2/alerts`."""
        return orjson.dumps([self._post(word, now_ms) for word in words])

    def _post(self, word: Word, now_ms: int) -> dict[str, Any]:
        if word.over_ms is None:
            self._fires_until_ms.setdefault(word.labels, IN_DOUBT_MS)  # the answer may get lost
        ends_ms = now_ms + LASTS_MS if word.over_ms is None else max(word.over_ms, self._fires_until(word, now_ms))
        return {
            "labels": orjson.Fragment(word.labels),
            "annotations": orjson.Fragment(word.annotations),
            "startsAt": _iso(min(word.first_seen_ms, word.over_ms or now_ms)),
            "endsAt": _iso(ends_ms),
        }

    def heard(self, words: Iterable[Word], now_ms: int) -> None:
        """Let go of these, unless there is a newer word on the same alert."""
        for word in words:
            if word.over_ms is None:
                self._heard_firing(word, now_ms)
            else:
                self._heard_over(word, now_ms)

    def _heard_firing(self, word: Word, now_ms: int) -> None:
        if any(word.labels in waiting for waiting in (self._firing, self._over, self._shed)):  # else it is forgotten
            self._fires_until_ms[word.labels] = self._fires_until(word, now_ms)
        if self._firing.get(word.labels) is word:
            del self._firing[word.labels]

    def _heard_over(self, word: Word, now_ms: int) -> None:
        for waiting in (self._over, self._shed):  # it may have been shed while it was on its way
            if word.labels in waiting and waiting[word.labels].over_ms == word.over_ms:
                fires_until_ms = self._fires_until_ms[word.labels] = self._fires_until(word, now_ms)
                self._said[word.labels] = _Said(waiting.pop(word.labels), max(now_ms, fires_until_ms) + SHOWN_MS)
        self._again.pop(word.labels, None)

    def doubt(self, now_ms: int) -> list[str]:
        """It is away, and may have died before it looked at what it heard last: so that was not heard. As `tell`."""
        self._retire(now_ms)
        self._over |= {key: said.word for key, said in self._said.items()}
        self._said.clear()
        self._again.clear()
        for key, until_ms in self._fires_until_ms.items():
            if until_ms > now_ms:
                self._fires_until_ms[key] = IN_DOUBT_MS
        return list(self._make_room())

    def _retire(self, now_ms: int) -> None:
        while self._said:
            key, said = next(iter(self._said.items()))
            if said.until_ms > now_ms and len(self._said) <= MOST_WHOLE:
                return
            del self._said[key], self._fires_until_ms[key]

    def _fires_until(self, word: Word, now_ms: int) -> int:
        """Never longer than from now on, even if the clock was set back meanwhile."""
        return min(self._fires_until_ms.get(word.labels, IN_DOUBT_MS), now_ms + SHOWN_MS)


def _json(texts: dict[str, str]) -> bytes:
    # Copied, because what orjson returns keeps the buffer it was written to: 16 kB for 1.5 kB (measured).
    return bytes(memoryview(orjson.dumps({name: _capped(text) for name, text in texts.items()})))


def _capped(text: str) -> str:
    whole = text.encode("utf-8", "replace")  # a lone surrogate is no UTF-8
    if len(whole) <= MOST_TEXT:
        return whole.decode()
    return f"{whole[:MOST_TEXT].decode('utf-8', 'ignore')}… ({len(whole)} bytes, whole in the topic of alerts)"


def _ended(over_ms: int | None) -> dict[str, str]:
    return {} if over_ms is None else {"ended": _iso(over_ms)}


def _iso(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).isoformat().replace("+00:00", "Z")
