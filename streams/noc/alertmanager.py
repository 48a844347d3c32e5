"""Alerts in Alertmanager: pushed to every peer's v2 API at once, and again while they are open.

Alertmanager groups, silences, inhibits and routes; it ends an alert that nobody repeats. Each peer has a backlog and a
pace of its own, so one that is away, slow or mute delays nobody.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus

import aiohttp

from detectors.contract import Alert, AlertState
from streams.noc.backlog import MOST_WHOLE, Backlog, Word
from streams.settings import without_credentials

log = logging.getLogger(__name__)

REPEAT_S = 30.0
"""An open alert is posted again after so long (Prometheus' own default is a minute)."""

TIMEOUT_S = 10.0
RETRY_S = 1.0
MOST_DOUBLINGS = 4
"""Each time a peer stays away, the wait for the next try doubles and the post halves: 16 s and 62 alerts at the end.
So a try costs little, and a peer that is slow rather than away gets through the posts that it can stand."""

MOST_PER_POST = 1_000  # 5,000 alerts in one post took Alertmanager 0.25 half a second (measured)

MOST_REFUSALS = 32
"""Posts that a peer may refuse in a row of posts. One bad alert among a thousand is found after ten; a peer that
refuses more is away for now, and is given the rest later."""

REFUSALS = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
"""What speaks against the post itself; any other failure speaks of the peer, or of what is between, and may pass."""


class _Peer:
    """One Alertmanager, and what we know of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.where = without_credentials(url)
        self.backlog = Backlog()
        self.wake = asyncio.Event()
        self.failures = 0  # in a row
        self.refusals = 0  # in this row of posts
        self.complained: set[str] = set()  # outcomes that the log speaks of already

    @property
    def doublings(self) -> int:
        return min(self.failures, MOST_DOUBLINGS)

    def complain(self, outcome: str, details: str) -> None:
        """Log what became of a word; once, until the peer has heard everything."""
        if outcome not in self.complained:
            self.complained.add(outcome)
            log.error("alerts for Alertmanager %s are %s: %s", self.where, outcome, details)


class AlertmanagerPush:
    """Keeps every peer told, each at its own pace.

    `delivered` hears the outcome of each post: ok, refused or unreachable; and what becomes of a word that waits too
    long: shed, then dropped.
    """

    def __init__(self, urls: Iterable[str], now_ms: Callable[[], int], delivered: Callable[[str], None]) -> None:
        self._peers = [_Peer(url) for url in urls]
        self._now_ms = now_ms
        self._delivered = delivered
        self._open: dict[str, Word] = {}  # by alert_id

    @property
    def pending(self) -> int:
        """Words that wait for the peer that has heard least."""
        return max((len(peer.backlog) for peer in self._peers), default=0)

    @property
    def most_pending(self) -> int:
        """As many may wait before the oldest shed their evidence."""
        return len(self._open) + MOST_WHOLE

    def tell(self, alerts: Iterable[Alert]) -> None:
        """Take lifecycle events, or the open alerts of a partition that was assigned."""
        if self._peers:
            for alert in alerts:
                self._tell(alert)

    def _tell(self, alert: Alert) -> None:
        now_ms = self._now_ms()
        word = Word.of(alert, now_ms if alert.state is AlertState.RESOLVED else None)
        before = self._open.pop(alert.alert_id, word)
        if word.over_ms is None:
            self._open[alert.alert_id] = word
        for peer in self._peers:
            if before.labels != word.labels:  # its severity has risen
                peer.backlog.replace(before, now_ms)
            self._account(peer, peer.backlog.tell(word))
            peer.wake.set()

    def _account(self, peer: _Peer, losses: Iterable[str]) -> None:
        for outcome in losses:
            self._delivered(outcome)
            peer.complain(outcome, f"{len(peer.backlog)} wait, and the oldest make room")

    def forget(self, alert_ids: Iterable[str]) -> None:
        """The alerts of a partition that another worker owns now: that one speaks of them."""
        for alert_id in alert_ids:
            if word := self._open.pop(alert_id, None):
                for peer in self._peers:
                    peer.backlog.forget(word)

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
            if peer.failures:
                jitter = random.uniform(0.5, 1.0)  # noqa: S311 - so that workers don't come back all at once
                await asyncio.sleep(RETRY_S * 2**peer.doublings * jitter)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(repeat_at_s):
                        await peer.wake.wait()
            if clock_s() >= repeat_at_s:
                repeat_at_s = clock_s() + REPEAT_S
                self._repeat(peer)

    def _repeat(self, peer: _Peer) -> None:
        peer.backlog.repeat(self._open.values(), self._now_ms())

    async def deliver(self) -> None:
        """One try with every peer."""
        async with _session() as session:
            await asyncio.gather(*(self._deliver_to(session, peer) for peer in self._peers))

    async def _deliver_to(self, session: aiohttp.ClientSession, peer: _Peer) -> None:
        peer.refusals = 0
        # A thousand take some milliseconds to write, so the loop has a turn after each post.
        while words := peer.backlog.first(MOST_PER_POST >> peer.doublings):
            if not await self._say(session, peer, words):
                return
        peer.complained.clear()

    async def _say(self, session: aiohttp.ClientSession, peer: _Peer, words: list[Word]) -> bool:
        """Whether the peer is there to hear more. What it refuses is said in halves, so that only the bad is lost."""
        status, reason = await self._post(session, peer, words)
        is_refused = status in REFUSALS
        is_heard = status is not None and status // 100 == HTTPStatus.OK // 100
        self._delivered("ok" if is_heard else "refused" if status else "unreachable")
        peer.refusals += is_refused
        if not (is_heard or is_refused) or peer.refusals > MOST_REFUSALS:
            self._is_away(peer, reason)
            return False
        if peer.failures:
            log.info("Alertmanager %s is back: %d alerts have waited", peer.where, len(peer.backlog))
            peer.failures = 0
        if is_refused and len(words) > 1:
            half = len(words) // 2
            return await self._say(session, peer, words[:half]) and await self._say(session, peer, words[half:])
        if is_refused:
            peer.complain("refused", f"{reason} for {words[0].labels.decode()}")
        peer.backlog.heard(words, self._now_ms())
        return True

    def _is_away(self, peer: _Peer, reason: str) -> None:
        if not peer.failures:
            log.warning("Alertmanager %s is away (%s): alerts wait for it", peer.where, reason)
        peer.failures += 1
        self._account(peer, peer.backlog.doubt(self._now_ms()))

    async def _post(self, session: aiohttp.ClientSession, peer: _Peer, words: list[Word]) -> tuple[int | None, str]:
        """HTTP status, None without an answer, and why in a word; not in its own, which may repeat what we said."""
        try:
            async with session.post(
                f"{peer.url}/api/v2/alerts",
                data=peer.backlog.post(words, self._now_ms()),
                headers={"content-type": "application/json"},
                allow_redirects=False,  # a POST would go on as a GET, and be answered with 200
            ) as answer:
                return answer.status, str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return None, type(error).__name__


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
