"""Open alerts in Alertmanager: pushed to every peer's v2 API at once and again while they are open.

Alertmanager groups, silences, inhibits and routes; it ends an alert that nobody repeats. So what is kept here is the
newest word on each alert that a peer has not heard yet: memory is bounded by the alerts that are open, and by
`MOST_OVER` that have ended meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import islice
from typing import Any, NamedTuple

import aiohttp
import orjson

from detectors.catalog import RULES
from detectors.contract import Alert, AlertState
from streams.settings import without_credentials

log = logging.getLogger(__name__)

REPEAT_S = 30.0
"""An open alert is posted again after so long (Prometheus' own default is a minute)."""

ENDS_AFTER_REPEATS = 4
"""Alertmanager ends an alert that was not repeated for so many intervals: our death resolves nothing at once."""

TIMEOUT_S = 10.0
RETRY_S = 1.0
MOST_OVER = 10_000
"""Ended alerts that wait for a peer which is away; the oldest go first (it ends them by itself, but late)."""

MOST_PER_POST = 1_000  # 5,000 alerts in one post took Alertmanager 0.25 half a second (measured)


def labels(alert: Alert) -> dict[str, str]:
    """The identity of an alert, which its updates keep: few labels, all bounded by what is open."""
    return {
        "alertname": alert.rule,
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


def _iso(epoch_ms: float) -> str:
    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).isoformat().replace("+00:00", "Z")


class _Word(NamedTuple):
    """The newest that is to say of an alert."""

    alert: Alert
    over_ms: int | None  # wall clock at which it ended; None while it is open

    @property
    def fingerprint(self) -> str:
        return "|".join(labels(self.alert).values())

    def post(self, now_ms: int) -> dict[str, Any]:
        lasts_ms = int(ENDS_AFTER_REPEATS * REPEAT_S * 1_000)
        return {
            "labels": labels(self.alert),
            "annotations": annotations(self.alert),
            "startsAt": _iso(min(self.alert.first_seen_ms, self.over_ms or now_ms)),
            "endsAt": _iso(self.over_ms or now_ms + lasts_ms),
        }


class _Peer:
    """One Alertmanager, and what it has still to hear, the newest last."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.waiting: dict[str, _Word] = {}  # by fingerprint
        self.wake = asyncio.Event()
        self.is_away = False

    def hear(self, word: _Word) -> None:
        self.waiting.pop(word.fingerprint, None)
        self.waiting[word.fingerprint] = word
        self.wake.set()

    def heard(self, words: Iterable[_Word]) -> None:
        """Forget these, unless there is a newer word on the same alert."""
        for word in words:
            if self.waiting.get(word.fingerprint) is word:
                del self.waiting[word.fingerprint]


class AlertmanagerPush:
    """Keeps every peer told, each at its own pace.

    `delivered` hears the outcome of each post: ok, refused or unreachable; and dropped for a word too old to wait on.
    """

    def __init__(self, urls: Iterable[str], now_ms: Callable[[], int], delivered: Callable[[str], None]) -> None:
        self._peers = [_Peer(url) for url in urls]
        self._now_ms = now_ms
        self._delivered = delivered
        self._open: dict[str, Alert] = {}

    @property
    def pending(self) -> int:
        """Words that some peer has not heard yet."""
        return sum(len(peer.waiting) for peer in self._peers)

    def tell(self, alerts: Iterable[Alert]) -> None:
        """Take lifecycle events, or the open alerts of a partition that was assigned."""
        for alert in alerts:
            before = self._open.pop(alert.alert_id, None)
            if before and labels(before) != labels(alert):
                self._say(before, is_over=True)  # its severity has risen: other labels, so another alert for them
            is_over = alert.state is AlertState.RESOLVED
            if not is_over:
                self._open[alert.alert_id] = alert
            self._say(alert, is_over=is_over)

    def forget(self, alert_ids: Iterable[str]) -> None:
        """The alerts of a partition that another worker owns now: that one speaks of them."""
        for alert_id in alert_ids:
            if alert := self._open.pop(alert_id, None):
                for peer in self._peers:
                    peer.waiting.pop(_Word(alert, None).fingerprint, None)

    def _say(self, alert: Alert, *, is_over: bool) -> None:
        word = _Word(alert, self._now_ms() if is_over else None)
        for peer in self._peers:
            peer.hear(word)
            if len(peer.waiting) > len(self._open) + MOST_OVER:
                # Words on open alerts are said again and again, so what has waited longest is over.
                del peer.waiting[next(iter(peer.waiting))]
                self._delivered("dropped")

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with _session() as session, asyncio.TaskGroup() as peers:
            for peer in self._peers:
                peers.create_task(self._keep_told(session, peer))
            await asyncio.Event().wait()  # without peers it lives just as long

    async def _keep_told(self, session: aiohttp.ClientSession, peer: _Peer) -> None:
        clock_s = asyncio.get_running_loop().time
        repeat_at_s = clock_s() + REPEAT_S
        while True:
            peer.wake.clear()
            await self._deliver_to(session, peer)
            if peer.is_away:
                await asyncio.sleep(RETRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(repeat_at_s):
                    await peer.wake.wait()
            if clock_s() >= repeat_at_s:
                repeat_at_s = clock_s() + REPEAT_S
                for alert in self._open.values():
                    peer.hear(_Word(alert, None))

    async def deliver(self) -> None:
        """One try with every peer."""
        async with _session() as session:
            await asyncio.gather(*(self._deliver_to(session, peer) for peer in self._peers))

    async def _deliver_to(self, session: aiohttp.ClientSession, peer: _Peer) -> None:
        where = without_credentials(peer.url)
        while peer.waiting:
            # A thousand take some ten milliseconds to write, so the loop has a turn after each post.
            words = list(islice(peer.waiting.values(), MOST_PER_POST))
            body = orjson.dumps([word.post(self._now_ms()) for word in words])
            try:
                status: int | None
                async with session.post(
                    f"{peer.url}/api/v2/alerts", data=body, headers={"content-type": "application/json"}
                ) as answer:
                    status, reason = answer.status, await answer.text(errors="replace")
            except (aiohttp.ClientError, TimeoutError) as error:
                status, reason = None, type(error).__name__
            if status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # it may take them later
                self._delivered("unreachable" if status is None else "refused")
                if not peer.is_away:
                    log.warning("Alertmanager %s is away (%s): alerts wait for it", where, status or reason)
                peer.is_away = True
                return
            if peer.is_away:
                log.info("Alertmanager %s is back: %d alerts have waited", where, len(peer.waiting))
            peer.is_away = False
            self._delivered("ok" if status == HTTPStatus.OK else "refused")
            if status != HTTPStatus.OK:
                log.error("Alertmanager %s refused %d alerts: %s", where, len(words), reason[:200])
            peer.heard(words)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
