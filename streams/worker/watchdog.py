"""What systemd hears of a worker (sd_notify): ready, stopping, and once a second a sign of life while offsets advance.

The words leave from the loop that does the work, so one that hangs is silent as well. Nobody listens where systemd did
not start us.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from streams.worker.http import Health

log = logging.getLogger(__name__)

BEAT_S = 1.0
STARTING_S = 30
"""A start that waits for something may take as long as that; one that has hung for this time is given up."""


@contextmanager
def notifier(address: str | None) -> Iterator[Callable[..., None]]:
    """Sends words like READY=1 to the datagram socket at `address`: a path, or an abstract name behind '@'."""
    if address is None:
        yield lambda *_: None
        return
    where = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(0)
        is_heard = True

        def tell(*words: str) -> None:
            nonlocal is_heard
            try:
                manager.sendto("\n".join(words).encode(), where)
                is_heard = True
            except OSError as error:  # away, or behind: no reason to stop, and in a second there is more to hear
                if is_heard:
                    log.warning("systemd does not hear us at %s: %s", address, error)
                is_heard = False

        yield tell


async def beat(health: Health, stop: asyncio.Event, tell: Callable[..., None]) -> None:
    """Tell how the worker stands, once a second until `stop` is set; what turns wrong is a log line too."""
    was_wrong = None
    try:
        while not stop.is_set():
            wrong, unready = health.problem(), health.unready()
            if wrong:
                tell(f"STATUS={wrong}")
            elif unready:
                tell(f"EXTEND_TIMEOUT_USEC={STARTING_S * 1_000_000}", "WATCHDOG=1", f"STATUS={unready}")
            else:
                tell("READY=1", "WATCHDOG=1", "STATUS=offsets advance")
            if wrong and not was_wrong:
                log.error("%s", wrong)
            elif was_wrong and not wrong:
                log.info("offsets advance again")
            was_wrong = wrong
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), BEAT_S)
    finally:
        tell("STOPPING=1")
