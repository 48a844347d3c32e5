"""Ports that send more than they should, at the wrong hour, or again after long, and what only looks like it."""

from streams.simulate.rhythm import MINUTE_MS
from streams.simulate.stage import Scene
from streams.simulate.trades import DESKS, ROLES, Desk, desk_of
from streams.simulate.world import Port

_BULK_RECIPIENTS = 60  # mean of a bulk submit, rounded up
_MARKETING = Desk("marketing", "campaigns", "marketing")
_DAILY_CAP = 3_000  # segments: an office port keeps it in the evening, a bulk mailing breaks it in half an hour
_SURGE = ("volume-flash", "volume-step", "volume-ramp")


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


def _cap_minute(scene: Scene) -> None:
    scene.port.row["caps"] = {"per_minute": int(6 * _per_minute(scene))}
    scene.lift(peak=12, rise_ms=MINUTE_MS)
    scene.incident("volume", ("cap-minute",), "twelvefold, above the contracted rate", also=_SURGE)


def _cap_day(scene: Scene) -> None:
    scene.port.row["caps"] = {"per_day": _DAILY_CAP}
    extension = scene.filed_extension()
    scene.guest(extension, scene.port.lessee.signature, desk=_MARKETING, per_minute=2.0)
    scene.incident("volume", ("cap-day",), "a bulk mailing spends the day's quota", also=_SURGE)


def _within_cap(scene: Scene) -> None:
    scene.port.row["caps"] = {"per_minute": int(40 * _per_minute(scene)), "per_day": 100 * _DAILY_CAP}
    scene.lift(peak=2, rise_ms=MINUTE_MS)
    scene.innocent(("cap-minute", "cap-day"), "twice the usual, far below the contract")


def _quiet_hours(scene: Scene) -> None:
    extension = scene.extension()
    scene.file(extension, "marketing")
    scene.guest(extension, scene.port.lessee.signature, desk=_MARKETING)
    scene.incident("compliance", ("quiet-hours",), "marketing after nine in the evening")


def _night_codes(scene: Scene) -> None:
    extension = scene.extension()
    scene.file(extension, "code")
    scene.guest(extension, scene.port.lessee.signature, desk=DESKS["internet"][0], per_minute=20.0)
    scene.innocent(("quiet-hours",), "codes at night, filed as such on a port for marketing")


def _dormant(scene: Scene) -> None:
    port = _idle_port(scene, scene.world.date(-100))
    scene.incident("volume", ("dormant-wakes",), "a port without traffic for 100 days sends again", port=port)


def _first_traffic(scene: Scene) -> None:
    scene.innocent(("dormant-wakes",), "a leased port sends for the first time", port=_idle_port(scene, None))


def _idle_port(scene: Scene, last_traffic: str | None) -> Port:
    """One more port of the lessee, which had traffic at that date at the latest, and sends now."""
    world, lessee = scene.world, scene.port.lessee
    port = world.lease(f"{scene.port.name}-{scene.kind}", ROLES[0], lessee)
    extension = world.extension(port)
    dates = {"effective_from": world.date(-280), "last_traffic": last_traffic}
    world.file(port, lessee, extension, desk_of(lessee.industry).purpose, **dates)
    scene.guest(extension, lessee.signature, port=port, per_minute=20.0)
    return port


def _per_minute(scene: Scene) -> float:
    """Submits that the port usually sends."""
    return scene.submits() / ((scene.window.to_ms - scene.window.from_ms) / MINUTE_MS)


KINDS = {
    "flash": _flash,
    "step": _step,
    "ramp": _ramp,
    "planned-campaign": _planned_campaign,
    "cap-minute": _cap_minute,
    "cap-day": _cap_day,
    "within-cap": _within_cap,
    "quiet-hours": _quiet_hours,
    "night-codes": _night_codes,
    "dormant": _dormant,
    "first-traffic": _first_traffic,
}
