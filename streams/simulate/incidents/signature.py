"""One true and one innocent case for every signature rule of the contract.

All of them are a few messages a minute on one more extension of a port that is otherwise as usual.
"""

from streams.simulate.stage import Scene, Window
from streams.simulate.trades import ROLES, Desk
from streams.simulate.world import LOOKALIKES, Port

_PLAIN = ROLES[0]
_MARKETING = Desk("marketing", "campaigns", "marketing")
_HEADED = Desk("headed", "office", "notification")
_NEUTRAL = "温馨提示"


def _missing(scene: Scene) -> None:
    extension = scene.filed_extension()
    scene.guest(extension, None)
    scene.incident("signature", ("missing",), "no signature, and no gateway that appends one", extension=extension)


def _unfiled(scene: Scene) -> None:
    signature = scene.world.company("shop", listed=False).signature
    _named(scene, scene.filed_extension(), signature, ("unfiled",), "a name that nobody filed anywhere")


def _spelling(scene: Scene) -> None:
    extension, name = scene.extension(), scene.port.lessee.signature
    scene.file(extension, signature=f"{name}VIP")
    scene.guest(extension, f"{name}ｖｉｐ")
    scene.innocent(("unfiled", "lookalike"), "the filed name in full-width small letters", extension=extension)


def _wrong_port(scene: Scene) -> None:
    second = scene.world.lease(f"{scene.port.name}-second", _PLAIN, scene.port.lessee)
    signature = f"{scene.port.lessee.signature}会员"
    extension = scene.world.extension(second)
    scene.world.file(second, scene.port.lessee, extension, "notification", signature=signature)
    _named(
        scene, scene.filed_extension(), signature, ("wrong-port",), "the lessee's name, filed on its other port only"
    )


def _two_ports(scene: Scene) -> None:
    second = scene.world.lease(f"{scene.port.name}-twin", _PLAIN, scene.port.lessee)
    scene.world.file(second, scene.port.lessee, scene.world.extension(second), "notification")
    extension = scene.filed_extension()
    scene.guest(extension, scene.port.lessee.signature)
    scene.innocent(("wrong-port", "shared-tenant"), "one name, filed on two ports", extension=extension)


def _wrong_enterprise(scene: Scene) -> None:
    signature = next(scene.stage.foreigners).signature
    note = "the name of another enterprise, filed on an aggregator's port"
    rules = ("wrong-enterprise", "wrong-port")
    _named(scene, scene.filed_extension(), signature, rules, note, also=("foreign-enterprises",))


def _new_third_party(scene: Scene) -> None:
    party = scene.world.company("travel")
    extension = scene.extension()
    scene.world.file(scene.port, party, extension, "notification")
    scene.port.row["third_parties"].append({"enterprise_id": party.enterprise_id, "from": scene.world.date(-30)})
    scene.guest(extension, party.signature)
    tempting = ("wrong-enterprise", "foreign-enterprises")
    scene.innocent(tempting, "a declared and filed third party", extension=extension)


def _not_in_force(scene: Scene) -> None:
    extension = scene.extension()
    signature = f"{scene.port.lessee.signature}优选"
    scene.file(extension, signature=signature, state=2, last_traffic=scene.world.date(-190))
    _named(scene, extension, signature, ("not-in-force",), "the filing expired after six months without traffic")


def _renewed(scene: Scene) -> None:
    extension, day = scene.extension(), scene.world.date(-5)
    scene.file(extension, state=2, effective_to=day)
    scene.file(extension, effective_from=day)
    scene.guest(extension, scene.port.lessee.signature)
    scene.innocent(("not-in-force",), "the expired filing was renewed", extension=extension)


def _second_signature(scene: Scene) -> None:
    extension = scene.filed_extension()
    signature = f"{scene.port.lessee.signature}生活"
    scene.file(extension, signature=signature)
    scene.guest(extension, scene.port.lessee.signature)
    _named(scene, extension, signature, ("second-signature",), "two names in use on one full port, both filed")


def _renamed(scene: Scene) -> None:
    extension, at_ms = scene.extension(), scene.window.middle_ms
    old = scene.port.lessee.signature
    new = f"{old}新颜"
    scene.file(extension, effective_to=at_ms)
    scene.file(extension, signature=new, effective_from=at_ms)
    scene.guest(extension, old, window=Window(scene.window.from_ms, at_ms))
    scene.guest(extension, new, window=Window(at_ms, scene.window.to_ms))
    tempting = ("second-signature", "not-in-force", "unfiled")
    scene.innocent(tempting, "the name changed, and so did the filing", extension=extension)


def _conflict(scene: Scene) -> None:
    extension, name = scene.filed_extension(), scene.port.lessee.signature
    scene.guest(extension, name, second_signature=next(scene.stage.foreigners).signature)
    note = "head and tail name different senders"
    scene.incident("signature", ("conflict",), note, extension=extension, signature=name)


def _both_ends(scene: Scene) -> None:
    extension, name = scene.filed_extension(), scene.port.lessee.signature
    scene.guest(extension, name, second_signature=name)
    scene.innocent(("conflict",), "one name at both ends", extension=extension)


def _lookalike(scene: Scene) -> None:
    brand = scene.world.ports["bank-0"].lessee.signature
    signature = LOOKALIKES[brand[0]] + brand[1:]
    note = "one character away from a protected bank"
    _named(scene, scene.filed_extension(), signature, ("lookalike", "unfiled"), note)


def _similar_name(scene: Scene) -> None:
    brand = scene.world.ports["bank-0"].lessee.signature
    extension, signature = scene.extension(), brand[:-1] + "杭"
    scene.file(extension, signature=signature)
    scene.guest(extension, signature)
    note = "one character away from a protected bank, but a name of its own, filed"
    scene.innocent(("lookalike", "unfiled"), note, extension=extension)


def _forbidden_name(scene: Scene) -> None:
    note = "a neutral name that tells no sender"
    _named(scene, scene.filed_extension(), _NEUTRAL, ("forbidden-name", "unfiled", "missing"), note)


def _neutral_in_body(scene: Scene) -> None:
    extension, name = scene.filed_extension(), scene.port.lessee.signature
    scene.guest(extension, name, desk=_HEADED)
    tempting = ("forbidden-name", "conflict", "second-signature")
    scene.innocent(tempting, "the filed name at the head, then a neutral heading", extension=extension)


def _extension_unfiled(scene: Scene) -> None:
    note = "the lessee's filed name on an extension that was not filed"
    _named(scene, scene.extension(), scene.port.lessee.signature, ("extension-unfiled",), note)


def _port_unregistered(scene: Scene) -> None:
    host = scene.port
    stranger = Port("", scene.world.port_number("10690"), host.lessee, host.path, host.carriers, host.allocation, {})
    scene.guest(None, host.lessee.signature, port=stranger)
    scene.incident(
        "signature",
        ("port-unregistered",),
        "a port that the registry does not know",
        also=("wrong-port",),
        port=stranger,
        signature=host.lessee.signature,
    )


def _port_unauthorised(scene: Scene) -> None:
    port, extension = _leased(scene, "lapsed", authorised_to=scene.world.date(-2))
    note = "the authorisation ended two days ago"
    signature = port.lessee.signature
    rules = ("port-unauthorised",)
    scene.incident("signature", rules, note, port=port, extension=extension, signature=signature)


def _just_authorised(scene: Scene) -> None:
    today = scene.world.date(0)
    port, extension = _leased(scene, "fresh", authorised_from=today, effective_from=today)
    tempting = ("port-unauthorised", "port-unregistered")
    scene.innocent(tempting, "the lease began today", port=port, extension=extension)


def _purpose_mismatch(scene: Scene) -> None:
    extension, signature = scene.extension(), scene.port.lessee.signature
    scene.file(extension, purpose="code")
    scene.guest(extension, signature, desk=_MARKETING)
    note = "marketing under a filing for codes"
    scene.incident("signature", ("purpose-mismatch",), note, extension=extension, signature=signature)


def _filed_marketing(scene: Scene) -> None:
    extension = scene.extension()
    scene.file(extension, purpose="marketing")
    scene.guest(extension, scene.port.lessee.signature, desk=_MARKETING)
    note = "the port is for other purposes, the filing is for marketing, and the filing's wins"
    scene.innocent(("purpose-mismatch",), note, extension=extension)


def _named(
    scene: Scene, extension: str, signature: str, rules: tuple[str, ...], note: str, *, also: tuple[str, ...] = ()
) -> None:
    """The usual case: a wrong name on an extension."""
    scene.guest(extension, signature)
    scene.incident("signature", rules, note, also=also, extension=extension, signature=signature)


def _leased(scene: Scene, suffix: str, **more: object) -> tuple[Port, str]:
    """One more port of the lessee, filed and in use."""
    lessee = scene.port.lessee
    port = scene.world.lease(f"{scene.port.name}-{suffix}", _PLAIN, lessee, **more)
    extension = scene.world.extension(port)
    scene.world.file(port, lessee, extension, "code")
    scene.guest(extension, lessee.signature, port=port)
    return port, extension


KINDS = {
    "missing": _missing,
    "unfiled": _unfiled,
    "spelling": _spelling,
    "wrong-port": _wrong_port,
    "two-ports": _two_ports,
    "wrong-enterprise": _wrong_enterprise,
    "new-third-party": _new_third_party,
    "not-in-force": _not_in_force,
    "renewed": _renewed,
    "second-signature": _second_signature,
    "renamed": _renamed,
    "conflict": _conflict,
    "both-ends": _both_ends,
    "lookalike": _lookalike,
    "similar-name": _similar_name,
    "forbidden-name": _forbidden_name,
    "neutral-in-body": _neutral_in_body,
    "extension-unfiled": _extension_unfiled,
    "port-unregistered": _port_unregistered,
    "port-unauthorised": _port_unauthorised,
    "just-authorised": _just_authorised,
    "purpose-mismatch": _purpose_mismatch,
    "filed-marketing": _filed_marketing,
}
