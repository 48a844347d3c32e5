"""Opens an invented market: about sixty ports, their lessees and tenants, each with its share of the traffic.

Everything that is legal but looks like a breach has its place here: aggregators, platforms with third parties, groups,
gateway-appended signatures, self-extension, fixed-suffix extensions.
"""

from dataclasses import replace

import numpy as np

from streams.simulate.texts import Place
from streams.simulate.trades import CLIENT_INDUSTRIES, DESKS, ROLES, Role
from streams.simulate.world import Company, Port, Row, World


def open_market(rng: np.random.Generator, now_ms: int, daily_submits: float) -> World:
    """The market on a day, its senders sharing `daily_submits` of a plain weekday."""
    world = World(rng, now_ms)
    for role in ROLES:
        for rank in range(role.number):
            weight = role.weight * (rank + 1) ** -0.7 * rng.uniform(0.85, 1.15)
            _open_port(world, role, rank, weight)
    total = sum(sender.daily for sender in world.senders)
    world.looks.append((world.ports["parcel-0"], "bracket-in-body"))
    world.senders = [replace(sender, daily=sender.daily * daily_submits / total) for sender in world.senders]
    return world


def _open_port(world: World, role: Role, rank: int, weight: float) -> None:
    group = f"G{len(world.ports):03d}" if role.look == "group-companies" else None
    lessee = world.company(role.industry, group)
    clients = [world.company(CLIENT_INDUSTRIES[i % len(CLIENT_INDUSTRIES)], group) for i in range(role.clients)]
    more: Row = {}
    if role.look in ("third-parties", "platform"):
        more["third_parties"] = [{"enterprise_id": c.enterprise_id, "from": world.date(-200)} for c in clients]
    if clients:
        more["purposes"] = ["code", "marketing", "notification"]
    port = world.lease(f"{role.name}-{rank}", role, lessee, **more)
    if role.look:
        world.looks.append((port, role.look))
    if role.industry == "bank":
        world.protected.add(lessee.enterprise_id)
    tenants = [company for company in (lessee, *clients) if company.industry in DESKS]
    shares = np.arange(1, len(tenants) + 1) ** -0.8 * world.rng.uniform(0.7, 1.3, len(tenants))
    for company, share in zip(tenants, shares / shares.sum(), strict=True):
        _settle(world, port, role, company, weight * share)


def _settle(world: World, port: Port, role: Role, company: Company, weight: float) -> None:
    """File and start the desks of one company on a port."""
    desks = DESKS[company.industry]
    for desk, share in zip(desks, (0.75, 0.25) if len(desks) > 1 else (1.0,), strict=True):
        if role.look == "self-extension":
            world.file(port, company, None, desk.purpose)
            extensions = [world.extension(port) for _ in range(6)]
        else:
            extensions = [world.extension(port)]
            by_gateway = role.look == "gateway-signature"
            world.file(port, company, extensions[0], desk.purpose, is_gateway_signature=by_gateway)
        for extension in extensions:
            signature = None if role.look == "gateway-signature" else company.signature
            sender = world.sender(port, extension, signature, desk)
            place: Place = "tail" if company.industry == "school" else "head"
            world.senders.append(replace(sender, place=place, daily=weight * share / len(extensions)))
