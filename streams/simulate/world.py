"""Companies, the ports they lease, what they filed, and who sends what from where: the registry of a scenario."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from itertools import count
from typing import Any

import numpy as np

from streams.simulate.credit_code import credit_code
from streams.simulate.rhythm import DAY_MS, SHANGHAI_MS
from streams.simulate.texts import Place
from streams.simulate.trades import DESKS, Allocation, Desk, Role

Row = dict[str, Any]

_NAMES: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("names.toml").read_text("utf-8"))
LOOKALIKES: Mapping[str, str] = _NAMES["first"]

_FIXED_SUFFIX = "95000"
_PROVINCES = ("上海", "江苏", "浙江", "广东", "北京", "四川", "湖北", "山东")
_ONE_CARRIER = {"10657": "mobile", "10655": "unicom", "10659": "telecom"}
_PROTOCOLS = {"mobile": "cmpp", "unicom": "sgip", "telecom": "smgp"}
_NATIONAL = ("mobile", "unicom", "telecom")


@dataclass(frozen=True, slots=True)
class Company:
    enterprise_id: str
    name: str
    signature: str
    industry: str
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Path:
    """How submits of a port reach the gateway."""

    account: str
    sp_id: str
    gateway_id: str
    protocol: str
    province: str


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    name: str  # role and rank in it: "bank-0" is the busiest bank; recipes speak of ports by it
    number: str
    lessee: Company
    path: Path
    carriers: tuple[str, ...]
    allocation: Allocation
    row: Row  # of ports.jsonl
    used: set[str] = field(default_factory=set)  # extensions given away


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """A source of submits that look alike. `daily` is its mean on a plain weekday, in submits."""

    port: str
    extension: str | None
    signature: str | None  # at the head of the text, or at its tail
    book: str
    path: Path
    carriers: tuple[str, ...]
    rhythm: str = "people"
    daily: float = 0.0
    place: Place = "head"
    second_signature: str | None = None  # at the other end

    @property
    def ends(self) -> tuple[str | None, str | None]:
        """The names at the head and at the tail of its texts."""
        names = (self.signature, self.second_signature)
        return names if self.place == "head" else names[::-1]

    @property
    def is_bulk(self) -> bool:
        return self.book in ("marketing", "loan", "public")


class World:
    """What there is, and the means to add to it. Grown by `open_market`, then by the incidents of a scenario."""

    def __init__(self, rng: np.random.Generator, now_ms: int) -> None:
        self.rng = rng
        self.now_ms = now_ms
        self.companies: list[Company] = []
        self.protected: set[str] = set()  # enterprise ids whose signature is a protected brand
        self.ports: dict[str, Port] = {}
        self.filings: list[Row] = []
        self.campaigns: list[Row] = []
        self.senders: list[Sender] = []
        self.looks: list[tuple[Port, str]] = []
        self._brands = self._invented_brands()
        self._serials = count(1)
        self._numbers: set[str] = set()

    def company(self, industry: str, group_id: str | None = None, *, listed: bool = True) -> Company:
        """A new company; one that is not `listed` is in no registry."""
        short, rest = _NAMES["industries"][industry]
        signature = next(self._brands) + short
        place = self._one_of(tuple(_NAMES["places"]))
        code = credit_code("11" if industry == "public" else "91", next(self._serials))
        company = Company(code, place + signature + rest, signature, industry, group_id)
        if listed:
            self.companies.append(company)
        return company

    def lease(self, name: str, role: Role, lessee: Company, **more: object) -> Port:
        """A new port with its row of ports.jsonl; `more` overrides fields of the row."""
        prefix = role.prefixes[len(self.ports) % len(role.prefixes)]
        carriers = (_ONE_CARRIER[prefix],) if prefix in _ONE_CARRIER else _NATIONAL
        path = self.path(_PROTOCOLS[carriers[0]])
        number = self.port_number(prefix)
        row: Row = {
            "access_port": number,
            "carriers": list(carriers),
            "province": path.province,
            "lessee_id": lessee.enterprise_id,
            "lessee_name": lessee.name,
            "customer_type": role.customer_type,
            "group_id": lessee.group_id,
            "purposes": sorted({desk.purpose for desk in DESKS.get(role.industry, ())}) or ["code", "notification"],
            "industry": role.industry,
            "allow_self_extension": role.look == "self-extension",
            "authorised_from": self.date(-300),
            "authorised_to": self.date(+240),
            "state": "online",
            "third_parties": [],
            "paths": [{"account": path.account, "sp_id": path.sp_id, "network": path.gateway_id, "role": "main"}],
            "protected": role.name == "protected",
            **more,
        }
        port = Port(name, number, lessee, path, carriers, role.allocation, row)
        self.ports[name] = port
        return port

    def file(self, port: Port, company: Company, extension: str | None, purpose: str, **more: object) -> Row:
        """File the company's signature on a full port; `more` overrides fields of the row."""
        row: Row = {
            "access_port": port.number,
            "extension": extension,
            "signature": company.signature,
            "carrier": None,
            "enterprise_id": company.enterprise_id,
            "enterprise_name": company.name,
            "purpose": purpose,
            "state": 3,
            "is_gateway_signature": False,
            "effective_from": self.date(-int(self.rng.integers(40, 280))),
            "last_traffic": self.date(0),
            "links": ["s.example"],
            "numbers": [],
            **more,
        }
        self.filings.append(row)
        return row

    def extension(self, port: Port) -> str:
        """An extension that is not in use on the port, chosen by the port's way of giving them away."""
        if port.allocation == "sequential":
            candidates: Iterator[str] = (f"{number:04d}" for number in count(1))
        elif port.allocation == "suffix":
            candidates = (f"{number:02d}{_FIXED_SUFFIX}" for number in count(10))
        else:
            candidates = (str(self.rng.integers(100_000, 1_000_000)) for _ in count())
        chosen = next(extension for extension in candidates if extension not in port.used)
        port.used.add(chosen)
        return chosen

    def path(self, protocol: str) -> Path:
        """A submit path of its own: account, SP id and gateway."""
        sp_id = f"9{self.rng.integers(10_000, 100_000)}"
        province = self._one_of(_PROVINCES)
        return Path(f"acc{sp_id}", sp_id, f"gw-{protocol}-{self.rng.integers(1, 5)}", protocol, province)

    def port_number(self, prefix: str) -> str:
        """A main port number of the base length that the code plan gives to the prefix."""
        digits = 7 if prefix in ("10695", "10696", "10697", "10698") else 3
        while (number := f"{prefix}{self.rng.integers(10**digits):0{digits}d}") in self._numbers:
            pass
        self._numbers.add(number)
        return number

    def date(self, days: int) -> str:
        """The date `days` after the scenario's own, in Asia/Shanghai."""
        day = (self.now_ms + SHANGHAI_MS) // DAY_MS + days
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)).date().isoformat()

    def sender(self, port: Port, extension: str | None, signature: str | None, desk: Desk) -> Sender:
        """A sender on a port by its main path, without traffic of its own yet."""
        return Sender(
            port=port.number,
            extension=extension,
            signature=signature,
            book=desk.book,
            path=port.path,
            carriers=port.carriers,
            rhythm=desk.rhythm,
        )

    def registry(self) -> dict[str, list[Row]]:
        """Rows per file of the registry folder."""
        return {
            "ports": [port.row for port in self.ports.values()],
            "signatures": self.filings,
            "enterprises": [self._enterprise(company) for company in self.companies],
            "campaigns": self.campaigns,
        }

    def _enterprise(self, company: Company) -> Row:
        return {
            "enterprise_id": company.enterprise_id,
            "name": company.name,
            "group_id": company.group_id,
            "industry": company.industry,
            "brands": [company.signature],
            "protected_brands": [company.signature] if company.enterprise_id in self.protected else [],
        }

    def _invented_brands(self) -> Iterator[str]:
        brands = [first + second for first in LOOKALIKES for second in _NAMES["second"]]
        return iter([brands[index] for index in self.rng.permutation(len(brands))])

    def _one_of(self, choices: tuple[str, ...]) -> str:
        return choices[int(self.rng.integers(len(choices)))]
