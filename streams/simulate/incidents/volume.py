"""Ports that send far more than they should, and one whose rise was announced."""

from streams.simulate.rhythm import MINUTE_MS
from streams.simulate.stage import Scene

_BULK_RECIPIENTS = 60  # mean of a bulk submit, rounded up


def _flash(scene: Scene) -> None:
    scene.lift(peak=10, rise_ms=MINUTE_MS)
    scene.incident("volume", ("volume-flash", "volume-step"), "tenfold within a minute", also=("volume-ramp",))


def _step(scene: Scene) -> None:
    scene.lift(peak=4, rise_ms=MINUTE_MS)
    scene.incident("volume", ("volume-step", "volume-flash", "volume-ramp"), "fourfold within a minute, and it stays")


def _ramp(scene: Scene) -> None:
    scene.lift(peak=4, rise_ms=scene.window.to_ms - scene.window.from_ms)
    scene.incident("volume", ("volume-ramp", "volume-step", "volume-flash"), "slowly to fourfold")


def _planned_campaign(scene: Scene) -> None:
    scene.world.campaigns.append(
        {
            "access_port": scene.port.number,
            "from": scene.window.from_ms,
            "to": scene.window.to_ms,
            "expected_recipients": int(1.2 * 5 * scene.submits() * _BULK_RECIPIENTS),
            "approved_by": "noc",
            "note": "pre-sale campaign",
        }
    )
    scene.lift(peak=5, rise_ms=MINUTE_MS)
    tempting = ("volume-flash", "volume-step", "volume-ramp", "plan-exceeded")
    scene.innocent(tempting, "fivefold, as announced in campaigns.jsonl")


KINDS = {"flash": _flash, "step": _step, "ramp": _ramp, "planned-campaign": _planned_campaign}
