"""Ports used by companies that are not their lessees, and the legal uses that look like it."""

from streams.simulate.rhythm import MINUTE_MS
from streams.simulate.stage import Scene, Window
from streams.simulate.trades import Desk, desk_of

_TENANTS = 5
_TENANT_PER_MINUTE = 5.0
_WALK_PER_MINUTE = 3.0
_LOAN = Desk("loan", "campaigns", "marketing")
_BREACHES = ("wrong-enterprise", "wrong-port", "extension-unfiled", "purpose-mismatch")
_RISE = ("volume-flash", "volume-step", "volume-ramp")


def _foreign_enterprises(scene: Scene) -> None:
    for _ in range(_TENANTS):
        tenant = next(scene.stage.foreigners)
        scene.guest(scene.extension(), tenant.signature, desk=desk_of(tenant.industry), per_minute=_TENANT_PER_MINUTE)
    note = "five companies, filed elsewhere, send on unfiled extensions of one lessee's port"
    scene.incident("sublet", ("foreign-enterprises", "sublet-case"), note, also=_BREACHES + _RISE)


def _shared_tenant(scene: Scene) -> None:
    """The ring covers the named port and the next two of its role."""
    tenant = next(scene.stage.foreigners)
    role, rank = scene.port.name.rsplit("-", 1)
    for offset in range(3):
        port = scene.world.ports[f"{role}-{int(rank) + offset}"]
        extension = scene.world.extension(port)
        scene.guest(extension, tenant.signature, port=port, desk=_LOAN, per_minute=_TENANT_PER_MINUTE)
        scene.incident(
            "sublet",
            ("shared-tenant", "foreign-enterprises", "sublet-case"),
            "one company sends on the ports of three unrelated lessees",
            also=_BREACHES + _RISE,
            port=port,
            signature=tenant.signature,
        )


def _path_foreign(scene: Scene) -> None:
    extension, signature = scene.filed_extension(), scene.port.lessee.signature
    scene.guest(extension, signature, per_minute=_TENANT_PER_MINUTE, path=scene.world.path("http"))
    note = "an account that does not belong to the port"
    scene.incident("sublet", ("path-foreign", "sublet-case"), note, extension=extension, signature=signature)


def _recovery_path(scene: Scene) -> None:
    extension, path = scene.filed_extension(), scene.world.path("cmpp")
    scene.port.row["paths"].append(
        {"account": path.account, "sp_id": path.sp_id, "network": path.gateway_id, "role": "recovery"}
    )
    scene.guest(extension, scene.port.lessee.signature, per_minute=_TENANT_PER_MINUTE, path=path)
    scene.innocent(("path-foreign",), "the declared recovery path", extension=extension)


def _extension_walk(scene: Scene) -> None:
    for number, minute_ms in enumerate(range(scene.window.from_ms, scene.window.to_ms, MINUTE_MS)):
        window = Window(minute_ms, min(scene.window.to_ms, minute_ms + 3 * MINUTE_MS))
        scene.guest(f"{7000 + number}", scene.port.lessee.signature, window=window, per_minute=_WALK_PER_MINUTE)
    note = "a new unfiled extension every minute, in sequence"
    scene.incident("sublet", ("extension-walk", "sublet-case"), note, also=("extension-unfiled",))


KINDS = {
    "foreign-enterprises": _foreign_enterprises,
    "shared-tenant": _shared_tenant,
    "path-foreign": _path_foreign,
    "recovery-path": _recovery_path,
    "extension-walk": _extension_walk,
}
