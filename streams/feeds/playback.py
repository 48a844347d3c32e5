"""Plays recorded traffic: when a record is due, so that event time passes at a multiple of real time."""

LONGEST_GAP_MS = 86_400_000
"""A jump of event time by more than a day, either way, is a wrong clock or another recording: it is not waited for."""


class Playback:
    """`speed`: event seconds per real second. Records without a time, and older ones than the last, are due at once."""

    def __init__(self, speed: float) -> None:
        """Raises ValueError where speed is not above 0."""
        if not speed > 0:
            raise ValueError(f"speed: {speed!r}: allowed is a number above 0")
        self._speed = speed
        self._start_s = 0.0
        self._start_ms: int | None = None
        self._newest_ms = 0

    def wait_s(self, event_time_ms: int | None, now_s: float) -> float:
        """Seconds until the record is due; 0 or less for 'now'. `now_s`: any steady clock."""
        if event_time_ms is None:
            return 0.0
        if self._start_ms is None or abs(event_time_ms - self._newest_ms) > LONGEST_GAP_MS:
            self._start_ms, self._start_s, self._newest_ms = event_time_ms, now_s, event_time_ms
        self._newest_ms = max(self._newest_ms, event_time_ms)
        return self._start_s + (event_time_ms - self._start_ms) / 1000 / self._speed - now_s
