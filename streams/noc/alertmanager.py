"""Open alerts in Alertmanager: pushed to every peer's v2 API at once and again while they are open.

Alertmanager groups, silences, inhibits and routes; it ends an alert that nobody repeats. So what is kept here is the
newest word on each alert that some peer has not heard: memory is bounded by the alerts that are open.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson

from detectors.contract import Alert, AlertState

log = logging.getLogger(__name__)

REPEAT_S = 30.0
"""An open alert is posted again after so long (Prometheus' own default is a minute)."""

ENDS_AFTER_REPEATS = 4
"""Alertmanager ends an alert that was not repeated for so many intervals: our death resolves nothing at once."""

TIMEOUT_S = 10.0
MOST_PER_POST = 1_000  # 5,000 alerts in one post took Alertmanager 0.25 half a second (measured)


def labels(alert: Alert) -> dict[str, str]:
    """The identity of an alert: few labels, all bounded by what is open."""
    return {
        "alertname": alert.rule,
        "detector": alert.detector,
        "severity": alert.severity,
        **({"port": alert.access_port} if alert.access_port else {}),
        **({"extension": alert.extension} if alert.extension else {}),
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
        "lessee": alert.lessee_id or "",
        "runbook": alert.runbook,
    }


def _iso(epoch_ms: float) -> str:
    return datetime.fromtimestamp(epoch_ms / 1_000, UTC).isoformat().replace("+00:00", "Z")


class AlertmanagerPush:
    """One task that keeps every peer told. `delivered` hears the outcome of each post: ok, refused or unreachable."""

    def __init__(self, urls: Iterable[str], now_ms: Callable[[], int], delivered: Callable[[str], None]) -> None:
        self._peers = {url: dict[str, dict[str, Any]]() for url in urls}  # what each has still to hear, by fingerprint
        self._now_ms = now_ms
        self._delivered = delivered
        self._open: dict[str, Alert] = {}
        self._wake = asyncio.Event()

    @property
    def pending(self) -> int:
        """Words that some peer has not heard yet."""
        return sum(map(len, self._peers.values()))

    def tell(self, alerts: Iterable[Alert]) -> None:
        """Take lifecycle events, or the open alerts of a partition that was assigned."""
        for alert in alerts:
            before = self._open.pop(alert.alert_id, None)
            if before and labels(before) != labels(alert):
                self._say(before, is_over=True)  # its severity has risen: other labels, so another alert for them
            if alert.state is AlertState.RESOLVED:
                self._say(alert, is_over=True)
            else:
                self._open[alert.alert_id] = alert
                self._say(alert, is_over=False)
        self._wake.set()

    def forget(self, alert_ids: Iterable[str]) -> None:
        """The alerts of a partition that another worker owns now; it repeats them."""
        for alert_id in alert_ids:
            self._open.pop(alert_id, None)

    def _say(self, alert: Alert, *, is_over: bool) -> None:
        now_ms = self._now_ms()
        lasts_ms = 0 if is_over else int(ENDS_AFTER_REPEATS * REPEAT_S * 1_000)
        post = {
            "labels": labels(alert),
            "annotations": annotations(alert),
            "startsAt": _iso(min(alert.first_seen_ms, now_ms)),
            "endsAt": _iso(now_ms + lasts_ms),
        }
        fingerprint = "|".join(labels(alert).values())
        for waiting in self._peers.values():
            waiting[fingerprint] = post

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session:
            while True:
                self._wake.clear()
                await self.deliver(session)
                try:
                    await asyncio.wait_for(self._wake.wait(), REPEAT_S)
                except TimeoutError:
                    for alert in self._open.values():
                        self._say(alert, is_over=False)

    async def deliver(self, session: aiohttp.ClientSession) -> None:
        """One try with every peer."""
        await asyncio.gather(*(self._deliver_to(session, url) for url in self._peers))

    async def _deliver_to(self, session: aiohttp.ClientSession, url: str) -> None:
        waiting = self._peers[url]
        while waiting:
            posts = dict(list(waiting.items())[:MOST_PER_POST])
            body = orjson.dumps(list(posts.values()))
            try:
                async with session.post(
                    f"{url}/api/v2/alerts", data=body, headers={"content-type": "application/json"}
                ) as answer:
                    status, reason = answer.status, await answer.text()
            except (aiohttp.ClientError, TimeoutError) as error:
                self._delivered("unreachable")
                log.warning("Alertmanager %s is away (%s); %d alerts wait", url, type(error).__name__, len(waiting))
                return
            self._delivered("ok" if status == HTTPStatus.OK else "refused")
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                return  # it may take them later
            if status != HTTPStatus.OK:
                log.error("Alertmanager %s refused %d alerts: %s", url, len(posts), reason[:200])
            for fingerprint, post in posts.items():
                if waiting.get(fingerprint) is post:
                    del waiting[fingerprint]
