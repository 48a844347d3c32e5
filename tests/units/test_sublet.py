"""A port used by others than its lessee: when a case must be told, and what innocent explanation must silence it."""

from dataclasses import replace
from typing import Any

import pytest

from detectors.contract import PANE_MS, Finding, Severity
from detectors.groups import Groups
from detectors.registry import Enterprise, Filing, PortLease, Registry, ThirdParty
from detectors.sublet.detector import SubletDetector
from tests.panes import BANK, PORT, Line, Send
from tests.rows import START_MS

DETECTOR = SubletDetector()
PANES_PER_HOUR = 3_600_000 // PANE_MS
DAY_PANES = 24 * PANES_PER_HOUR
PARCEL, SCHOOL, SHOP = "蓝鲸物流", "云杉教育", "赤松商城"
TENANTS = [Send(PARCEL, 10, extension="02"), Send(SCHOOL, 10, extension="03")]

ENTERPRISES = (
    Enterprise(enterprise_id="E0", name="青禾银行股份有限公司", group_id="G0"),
    Enterprise(enterprise_id="E1", name="蓝鲸物流有限公司"),
    Enterprise(enterprise_id="E2", name="云杉教育科技有限公司"),
    Enterprise(enterprise_id="E3", name="赤松商贸有限公司", brands=("赤松商城",)),
)
LESSEE = PortLease(access_port=PORT, lessee_id="E0", lessee_name="青禾银行股份有限公司")
FILINGS = (
    Filing(access_port=PORT, extension="01", signature=BANK, enterprise_id="E0"),
    Filing(access_port="10690020", signature=PARCEL, enterprise_id="E1"),
    Filing(access_port="10690030", signature=SCHOOL, enterprise_id="E2"),
)


def registry(
    *filings: Filing, enterprises: tuple[Enterprise, ...] = ENTERPRISES, without: int | None = None, **changes: Any
) -> Registry:
    """Three enterprises, each filed on its own port; `changes` are made to the lease that is watched."""
    kept = tuple(row for n, row in enumerate(FILINGS) if n != without)
    return Registry(ports=(replace(LESSEE, **changes),), filings=(*kept, *filings), enterprises=enterprises)


def watch(filed: Registry, **changes: Any) -> Line:
    return Line(filed, replace(DETECTOR, **changes))


def told(filed: Registry, *sends: Send, panes: int = 3) -> list[Finding]:
    """Findings of some panes that all look the same."""
    line = watch(filed)
    return [finding for at in range(panes) for finding in line.pane(at, sends)]


def test_two_foreign_enterprises_are_a_case_with_names_and_numbers() -> None:
    line = watch(registry())
    line.pane(0, [Send(submits=60), *TENANTS])
    (finding,) = line.pane(1, [Send(submits=60), *TENANTS])
    assert (finding.rule, finding.severity, finding.lessee_id) == ("foreign-enterprises", Severity.WARNING, "E0")
    assert (finding.size, finding.evidence["share_day"]) == (40.0, 0.25)
    assert finding.evidence["enterprises"] == [
        {
            "enterprise_id": enterprise,
            "name": name,
            "known_by": "filing",
            "signatures": [signature],
            "extensions": [extension],
            "submits": 20,
            "share": 0.125,
            "first_seen_ms": START_MS,
            "last_seen_ms": START_MS + PANE_MS,
            "signature_rules": ["wrong-port"],
            "sample": f"【{signature}】您的验证码是******",
        }
        for enterprise, name, signature, extension in [
            ("E1", "蓝鲸物流有限公司", PARCEL, "02"),
            ("E2", "云杉教育科技有限公司", SCHOOL, "03"),
        ]
    ]
    assert finding.evidence["unknown"] == []
    assert finding.offsets == (140, 150)
    assert finding.summary.en == (
        "10690010, leased to 青禾银行股份有限公司, is used by 2 other enterprises "
        "(蓝鲸物流有限公司, 云杉教育科技有限公司): 40 submits within a day, 25% of what the port sent meanwhile"
    )
    assert finding.summary.zh == (
        "10690010（承租方：青禾银行股份有限公司）被 2 家其他企业使用（蓝鲸物流有限公司、云杉教育科技有限公司）："
        "24 小时内 40 条，占同期该端口 25%"
    )


def test_the_innocent_explanations_are_named() -> None:
    lapsed = ThirdParty(enterprise_id="E1", to=START_MS)
    finding = told(registry(third_parties=(lapsed,)), *TENANTS)[-1]
    assert [wording.en for wording in finding.ruled_out] == [
        "Same group: none of them belongs to the lessee's group (G0)",
        "Authorised third party: 1 on file for this port, none of them in its dates; lapsed: E1 (2025-11-10)",
        "Filed on this port: none of the names has a filing in force here",
        "Aggregator or platform: the customer type is enterprise; clients filed here are left out",
    ]


class TestInnocent:
    """TENANTS would be a case; each of these excuses one of the two, so there is none."""

    def test_the_lessee_itself_under_a_name_filed_elsewhere(self) -> None:
        own = Filing(access_port="10690040", signature=PARCEL, enterprise_id="E0")
        assert told(registry(own, without=1), *TENANTS) == []

    def test_the_lessees_own_name_though_nobody_filed_it(self) -> None:
        assert told(registry(without=0), Send("青禾", 50), Send(BANK, 50), Send("银行", 50), Send("股份", 50)) == []

    def test_the_lessees_own_brand(self) -> None:
        brand = replace(ENTERPRISES[0], brands=(PARCEL,))
        assert told(registry(enterprises=(brand, *ENTERPRISES[1:])), *TENANTS) == []

    def test_a_company_of_the_same_group(self) -> None:
        sister = replace(ENTERPRISES[1], group_id="G0")
        assert told(registry(enterprises=(ENTERPRISES[0], sister, *ENTERPRISES[2:])), *TENANTS) == []

    def test_a_company_of_the_group_on_the_lease(self) -> None:
        sister = replace(ENTERPRISES[1], group_id="G9")
        filed = registry(enterprises=(ENTERPRISES[0], sister, *ENTERPRISES[2:]), group_id="G9")
        assert told(filed, *TENANTS) == []

    def test_an_authorised_third_party_in_its_dates(self) -> None:
        party = ThirdParty(enterprise_id="E1", since=START_MS, to=START_MS + 3 * PANE_MS)
        assert told(registry(third_parties=(party,)), *TENANTS) == []

    @pytest.mark.parametrize("dates", [{"to": START_MS}, {"since": START_MS + 3 * PANE_MS}])
    def test_but_not_outside_its_dates(self, dates: dict[str, int]) -> None:
        party = ThirdParty(enterprise_id="E1", **dates)
        assert len(told(registry(third_parties=(party,)), *TENANTS)) == 3

    def test_whoever_is_filed_on_this_port(self) -> None:
        here = Filing(access_port=PORT, extension="02", signature=PARCEL, enterprise_id="E1")
        assert told(registry(here), *TENANTS) == []

    @pytest.mark.parametrize("dead", [{"state": 2}, {"effective_to": START_MS}])
    def test_but_not_with_a_filing_that_is_not_in_force(self, dead: dict[str, Any]) -> None:
        here = replace(Filing(access_port=PORT, signature=PARCEL, enterprise_id="E1"), **dead)
        assert len(told(registry(here), *TENANTS)) == 3

    @pytest.mark.parametrize("kind", ["aggregator", "platform"])
    def test_the_filed_clients_of_a_reseller_however_many(self, kind: str) -> None:
        names = [f"客户{n}号店" for n in range(40)]
        clients = [Filing(access_port=PORT, signature=name, enterprise_id=name) for name in names]
        filed = registry(*clients, customer_type=kind, allow_self_extension=True)
        assert told(filed, *(Send(name, 50, extension=str(n)) for n, name in enumerate(names))) == []

    def test_one_foreign_enterprise_with_little(self) -> None:
        assert told(registry(), Send(submits=500), Send(PARCEL, 100)) == []

    def test_a_filing_that_failed_proves_no_owner(self) -> None:
        failed = Filing(access_port="10690020", signature=PARCEL, enterprise_id="E1", state=0)
        enterprises = (ENTERPRISES[0],)
        assert told(registry(failed, without=1, enterprises=enterprises), *TENANTS) == []


class TestNotJudged:
    def test_an_empty_registry(self) -> None:
        assert told(Registry(), *TENANTS) == []

    def test_a_port_without_a_lessee(self) -> None:
        assert told(registry(lessee_id=None, lessee_name=None), *TENANTS) == []

    def test_a_port_that_is_not_leased(self) -> None:
        assert told(replace(registry(), ports=()), *TENANTS) == []

    def test_without_filings(self) -> None:
        assert told(replace(registry(), filings=()), *TENANTS) == []

    def test_texts_that_name_nobody(self) -> None:
        assert told(registry(), Send(None, 500), Send(text="【温馨提示】明日停水", submits=500)) == []

    def test_rows_that_found_no_room(self) -> None:
        line = Line(registry(), DETECTOR, groups=Groups(group_limit=1))
        assert line.pane(0, [Send(), *TENANTS]) == []


class TestEnough:
    def test_a_tenant_counts_from_five_submits_within_a_day(self) -> None:
        line = watch(registry())
        counts = [len(line.pane(at, [Send(PARCEL, 5), Send(SCHOOL)])) for at in range(6)]
        assert counts == [0, 0, 0, 0, 1, 1]

    @pytest.mark.parametrize(("pause", "count"), [(DAY_PANES - PANES_PER_HOUR, 1), (DAY_PANES, 0)])
    def test_the_day_slides(self, pause: int, count: int) -> None:
        line = watch(registry())
        line.pane(0, [Send(PARCEL, 50)])
        assert len(line.pane(pause, [Send(SCHOOL, 10)])) == count

    def test_one_pane_is_no_page(self) -> None:
        assert [f.severity for f in told(registry(), *TENANTS, panes=1)] == [Severity.INFO]

    def test_one_enterprise_that_uses_the_port_as_its_own(self) -> None:
        found = told(registry(), Send(submits=50), Send(PARCEL, 50))
        assert [(f.size, f.severity) for f in found] == [(100.0, Severity.WARNING), (150.0, Severity.WARNING)]

    def test_it_never_speaks_while_nothing_foreign_is_sent(self) -> None:
        line = watch(registry())
        line.pane(0, TENANTS)
        assert line.pane(1, [Send(submits=100)]) == []

    def test_the_share_counts_the_lessees_panes_since_the_case_began(self) -> None:
        line = watch(registry())
        line.pane(0, TENANTS)
        line.pane(1, [Send(submits=60)])
        (finding,) = line.pane(2, TENANTS)
        assert (finding.evidence["submits_day"], finding.evidence["share_day"]) == (40, 0.4)


class TestUnknownOwners:
    def test_four_unknown_names_are_a_line_in_a_report(self) -> None:
        found = told(registry(), *(Send(f"无名{n}店", 500) for n in range(4)))
        assert [f.severity for f in found] == [Severity.INFO] * 3
        assert found[0].evidence["unknown_names"] == 4

    def test_three_are_nothing(self) -> None:
        assert told(registry(), *(Send(f"无名{n}店", 500) for n in range(3))) == []

    def test_two_support_one_known_enterprise(self) -> None:
        (finding,) = told(registry(), Send(PARCEL, 5), Send("无名甲店", 5), Send("无名乙店", 5), panes=1)
        assert (finding.evidence["foreign_enterprises"], finding.evidence["unknown_names"]) == (1, 2)
        assert finding.evidence["unknown"][0]["signature_rules"] == ["unfiled"]

    def test_on_a_resellers_port_they_are_clients_not_yet_filed(self) -> None:
        assert told(registry(customer_type="aggregator"), *(Send(f"无名{n}店", 500) for n in range(9))) == []

    def test_a_brand_is_known_by_its_enterprise(self) -> None:
        found = told(registry(), Send(PARCEL, 10), Send(SHOP, 10), panes=1)
        assert [line["known_by"] for line in found[0].evidence["enterprises"]] == ["filing", "brand"]

    def test_several_names_of_one_enterprise_are_one(self) -> None:
        second = Filing(access_port="10690020", signature="蓝鲸快运", enterprise_id="E1")
        assert told(registry(second), Send(submits=50), Send(PARCEL, 10), Send("蓝鲸快运", 10)) == []


class TestCritical:
    FILED = registry(Filing(access_port="10690040", signature=SHOP, enterprise_id="E3"))
    THREE = (Send(PARCEL, 200), Send(SCHOOL, 200), Send(SHOP, 200))

    def test_three_filed_enterprises_with_a_thousand_and_a_fifth_of_the_port(self) -> None:
        found = told(self.FILED, Send(submits=2_400), *self.THREE)
        assert [f.severity for f in found] == [Severity.INFO, Severity.CRITICAL, Severity.CRITICAL]

    def test_not_where_an_owner_is_known_by_its_brand_only(self) -> None:
        assert told(registry(), *self.THREE)[-1].severity == Severity.WARNING

    def test_not_on_a_resellers_port(self) -> None:
        filed = replace(self.FILED, ports=(replace(LESSEE, customer_type="platform"),))
        assert told(filed, *self.THREE)[-1].severity == Severity.WARNING

    def test_not_with_a_smaller_share(self) -> None:
        assert told(self.FILED, Send(submits=2_500), *self.THREE)[-1].severity == Severity.WARNING


def test_cases_and_tenants_have_ceilings_and_what_is_lost_is_counted() -> None:
    leases = tuple(replace(LESSEE, access_port=f"1069{n:04}") for n in range(5))
    line = watch(replace(registry(), ports=leases), case_limit=2, tenant_limit=3)
    line.pane(0, [Send(f"无名{n}店", 5, port=port.access_port) for port in leases for n in range(5)])
    assert (len(line.state.cases), line.state.untracked) == (2, 3)
    assert [(len(case.tenants), case.untracked) for case in line.state.cases.values()] == [(3, 10)] * 2


def test_a_quiet_day_ends_a_case() -> None:
    line = watch(registry())
    line.pane(0, TENANTS)
    line.pane(DAY_PANES, [Send()])
    assert line.state.cases == {}


def test_renaming_the_port_renames_the_finding_and_nothing_else() -> None:
    def said(found: list[Finding]) -> list[tuple[object, ...]]:
        return [(f.severity, f.size, f.evidence, f.offsets) for f in found]

    moved = replace(LESSEE, access_port="10655077")
    filings = tuple(replace(row, access_port=moved.access_port) if row.access_port == PORT else row for row in FILINGS)
    renamed = replace(registry(), ports=(moved,), filings=filings)
    old = told(registry(), Send(), *TENANTS)
    new = told(renamed, *(replace(send, port=moved.access_port) for send in (Send(), *TENANTS)))
    assert said(new) == said(old)
    assert {finding.access_port for finding in new} == {"10655077"}
