"""Each rule about names, with cases where it must speak and cases where it must not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.contract import PANE_MS, Finding, Pane, Severity
from detectors.groups import Groups
from detectors.registry import Filing, PortLease, Registry
from detectors.signature.detector import SignatureDetector
from tests.panes import BANK, PORT, Line, Send
from tests.rows import START_MS, Row, batch

DETECTOR = SignatureDetector()
HOUR_MS = 3_600_000
PANES_PER_HOUR = HOUR_MS // PANE_MS
PARCEL, LOAN, NOBODY = "蓝鲸物流", "赤松贷款", "无名商城"
OTHER_PORT = "10690020"


def watch(filed: Registry, **changes: Any) -> Line:
    return Line(filed, replace(DETECTOR, **changes))


def lease(port: str = PORT, **changes: Any) -> PortLease:
    return replace(PortLease(access_port=port, lessee_id="E0"), **changes)


def filing(signature: str = BANK, **changes: Any) -> Filing:
    filed = Filing(access_port=PORT, extension="01", signature=signature, enterprise_id="E0")
    return replace(filed, **changes)


def registry(*filings: Filing, ports: tuple[PortLease, ...] = (lease(), lease(OTHER_PORT))) -> Registry:
    return Registry(ports=ports, filings=filings or (filing(),))


def rules(filed: Registry, *sends: Send) -> list[str]:
    """The rules that one pane of these sends breaks."""
    return sorted(finding.rule for finding in watch(filed).pane(0, sends))


def test_a_name_that_is_filed_in_force_for_this_full_port_is_fine() -> None:
    assert rules(registry(), Send(submits=50)) == []


def test_names_are_compared_folded() -> None:
    assert rules(registry(filing("JD云")), Send("ＪＤ 云"), Send("jd云")) == []


def test_an_empty_registry_judges_nobody() -> None:
    assert rules(Registry(), Send(NOBODY), Send(None)) == []


def test_without_leases_no_port_is_unregistered() -> None:
    assert rules(registry(ports=()), Send(port="10690099"), Send(None)) == ["wrong-port"]


def test_without_filings_no_name_is_unfiled() -> None:
    assert rules(Registry(ports=(lease(),)), Send(NOBODY), Send(None, extension="02")) == []


def test_what_is_not_text_is_judged_by_its_port_alone() -> None:
    unread = Row(id=1, port=PORT, text=None)
    groups = Groups()
    codes = groups.intern(batch([unread, replace(unread, id=2, port="10690099")]), registry())
    ones = np.ones(2, np.int64)
    pane = Pane(START_MS, START_MS, codes, ones, ones * 0, ones, ones, ones, groups)
    assert [f.rule for f in DETECTOR.step(DETECTOR.start(), pane, registry())] == ["port-unregistered"]


class TestMissing:
    GATEWAY = filing(is_gateway_signature=True)

    def test_a_text_without_a_name_where_one_is_due(self) -> None:
        assert rules(registry(), Send(None)) == ["missing"]

    def test_not_where_the_gateway_appends_one(self) -> None:
        assert rules(registry(self.GATEWAY), Send(None)) == []

    @pytest.mark.parametrize(
        "filings",
        [
            (GATEWAY, filing(PARCEL, is_gateway_signature=True)),  # which of the two?
            (replace(GATEWAY, state=2),),
            (replace(GATEWAY, extension="02"),),
            (replace(GATEWAY, effective_to=START_MS),),
            (replace(GATEWAY, carrier="unicom"),),
        ],
    )
    def test_unless_it_is_not_the_one_in_force_for_this_full_port(self, filings: tuple[Filing, ...]) -> None:
        assert rules(registry(*filings), Send(None, carrier="mobile")) == ["missing"]

    def test_the_full_port_decides_also_where_the_port_allows_self_extension(self) -> None:
        ports = (lease(allow_self_extension=True),)
        filed = registry(self.GATEWAY, filing(PARCEL, extension="02", is_gateway_signature=True), ports=ports)
        assert rules(filed, Send(None), Send(None, extension="02")) == []
        assert rules(filed, Send(None, extension="03")) == ["missing"]
        assert rules(registry(replace(self.GATEWAY, extension=None), ports=ports), Send(None, extension="03")) == []

    def test_a_neutral_word_is_no_name(self) -> None:
        assert rules(registry(), Send(text="【温馨提示】明日停水")) == ["missing"]

    def test_a_broken_bracket_is_not_helped_by_the_gateway_and_is_told_as_such(self) -> None:
        (finding,) = watch(registry(self.GATEWAY)).pane(0, [Send(text="【赤松网 验证码482913", submits=3)])
        assert (finding.rule, finding.evidence["malformed_submits"]) == ("missing", 3)


class TestUnfiled:
    def test_a_name_that_nobody_filed(self) -> None:
        assert rules(registry(), Send(NOBODY)) == ["unfiled"]

    def test_a_name_whose_filings_elsewhere_are_dead(self) -> None:
        (finding,) = watch(registry(filing(), filing(LOAN, access_port=OTHER_PORT, state=2))).pane(0, [Send(LOAN)])
        assert (finding.rule, finding.evidence["top"][0]["filings_not_in_force"]) == ("unfiled", 1)

    def test_a_name_in_other_brackets_is_told_as_such(self) -> None:
        (finding,) = watch(registry()).pane(0, [Send(text="［无名商城］您好", submits=2)])
        assert (finding.rule, finding.signature, finding.evidence["variant_submits"]) == ("unfiled", NOBODY, 2)


class TestWrongPort:
    FILED = registry(filing(), filing(LOAN, access_port=OTHER_PORT, enterprise_id="E3", enterprise_name="赤松公司"))

    def test_a_name_filed_for_another_port_only(self) -> None:
        (finding,) = watch(self.FILED).pane(0, [Send(LOAN)])
        assert finding.rule == "wrong-port"
        assert finding.evidence["top"][0]["filed_on"] == [OTHER_PORT]
        assert finding.evidence["top"][0]["filed_by"] == ["赤松公司"]

    def test_not_on_the_port_it_is_filed_for(self) -> None:
        assert rules(self.FILED, Send(LOAN, port=OTHER_PORT)) == []


class TestNotInForce:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"state": -2}, "not filed"),
            ({"state": -1}, "being filed"),
            ({"state": 0}, "failed"),
            ({"state": 1}, "to be verified"),
            ({"state": 2}, "expired for want of traffic"),
            ({"effective_from": START_MS + 1}, "not yet"),
            ({"effective_to": START_MS}, "ended"),
            ({"carrier": "unicom"}, "filed for other carriers"),
        ],
    )
    def test_a_filing_for_this_full_port_that_does_not_authorise(self, changes: dict[str, Any], reason: str) -> None:
        (finding,) = watch(registry(filing(**changes))).pane(0, [Send(carrier="mobile")])
        assert (finding.rule, finding.evidence["top"][0]["reason"]) == ("not-in-force", reason)

    @pytest.mark.parametrize(
        "changes",
        [{"effective_from": START_MS}, {"effective_to": START_MS + 1}, {"carrier": "mobile"}, {"carrier": None}],
    )
    def test_intervals_are_half_open_and_no_carrier_is_any(self, changes: dict[str, Any]) -> None:
        assert rules(registry(filing(**changes)), Send(carrier="mobile")) == []

    def test_a_submit_without_carrier_matches_any(self) -> None:
        assert rules(registry(filing(carrier="unicom")), Send()) == []

    def test_a_dead_filing_beside_one_in_force_does_no_harm(self) -> None:
        assert rules(registry(filing(effective_to=START_MS), filing(effective_from=START_MS)), Send()) == []

    def test_a_filing_ends_while_its_port_is_watched(self) -> None:
        line = watch(registry(filing(effective_to=START_MS + PANE_MS)))
        assert [len(line.pane(at, [Send()])) for at in (0, 1)] == [0, 1]

    def test_a_dead_filing_here_is_more_specific_than_one_in_force_elsewhere(self) -> None:
        filed = registry(filing(state=2), filing(access_port=OTHER_PORT))
        assert rules(filed, Send()) == ["not-in-force"]


class TestExtensionUnfiled:
    def test_a_name_filed_for_another_extension(self) -> None:
        (finding,) = watch(registry()).pane(0, [Send(extension="02")])
        assert (finding.rule, finding.extension) == ("extension-unfiled", "02")
        assert finding.evidence["top"][0]["filed_extensions"] == ["01"]

    def test_one_finding_for_each_extension(self) -> None:
        found = watch(registry()).pane(0, [Send(extension=f"{n:02}") for n in range(5)])
        assert sorted(str(finding.extension) for finding in found) == ["00", "02", "03", "04"]

    def test_not_where_the_port_allows_self_extension(self) -> None:
        ports = (lease(allow_self_extension=True),)
        filed = registry(filing(), filing(PARCEL, extension=None), ports=ports)
        assert rules(filed, Send(extension="02"), Send(PARCEL, extension="77"), Send(extension=None)) == []

    def test_self_extension_is_only_for_names_filed_on_the_main_port(self) -> None:
        filed = registry(filing(), filing(LOAN, access_port=OTHER_PORT), ports=(lease(allow_self_extension=True),))
        assert rules(filed, Send(LOAN, extension="02")) == ["wrong-port"]

    def test_a_filing_for_any_extension_means_none_where_self_extension_is_not_allowed(self) -> None:
        assert rules(registry(filing(extension=None)), Send(extension="02")) == ["extension-unfiled"]
        assert rules(registry(filing(extension=None)), Send(extension=None)) == []


class TestPort:
    def test_a_port_that_is_not_in_the_registry_breaks_that_rule_only(self) -> None:
        (finding,) = watch(registry()).pane(0, [Send(NOBODY, port="10690099"), Send(None, port="10690099")])
        assert (finding.rule, finding.evidence["also"]) == ("port-unregistered", ["unfiled"])

    def test_a_lease_that_has_ended_is_none(self) -> None:
        assert rules(registry(ports=(lease(effective_to=START_MS),)), Send()) == ["port-unregistered"]

    @pytest.mark.parametrize(
        "changes",
        [{"state": "offline"}, {"authorised_to": START_MS}, {"authorised_from": START_MS + 1}],
    )
    def test_a_port_offline_or_outside_its_dates(self, changes: dict[str, Any]) -> None:
        (finding,) = watch(registry(ports=(lease(**changes),))).pane(0, [Send()])
        assert (finding.rule, finding.lessee_id) == ("port-unauthorised", "E0")

    @pytest.mark.parametrize(
        "changes",
        [{"state": "rectifying"}, {"authorised_to": START_MS + 1}, {"authorised_from": START_MS}],
    )
    def test_a_port_within_its_dates(self, changes: dict[str, Any]) -> None:
        assert rules(registry(ports=(lease(**changes),)), Send()) == []

    def test_the_name_is_more_specific_and_names_the_port(self) -> None:
        (finding,) = watch(registry(ports=(lease(state="offline"),))).pane(0, [Send(NOBODY)])
        assert (finding.rule, finding.evidence["also"]) == ("unfiled", ["port-unauthorised"])


class TestSecondSignature:
    BOTH = registry(filing(), filing(PARCEL, enterprise_id="E1"))

    def test_two_filed_names_used_on_one_full_port(self) -> None:
        (finding,) = watch(self.BOTH).pane(0, [Send(submits=9), Send(PARCEL)])
        assert (finding.rule, finding.extension, finding.signature) == ("second-signature", "01", PARCEL)
        assert finding.evidence["top"][0]["beside"] == [BANK]

    def test_not_while_only_one_of_them_is_used(self) -> None:
        line = watch(self.BOTH)
        assert [line.pane(at, [Send()]) for at in range(3)] == [[], [], []]

    def test_not_on_two_full_ports(self) -> None:
        filed = registry(filing(), filing(PARCEL, extension="02"))
        assert rules(filed, Send(), Send(PARCEL, extension="02")) == []

    def test_not_under_two_spellings_of_one_name(self) -> None:
        assert rules(registry(filing("JD云")), Send("ＪＤ云"), Send("JD云")) == []

    def test_two_accounts_of_one_name_are_one(self) -> None:
        assert rules(registry(), Send(carrier="mobile"), Send(carrier="unicom")) == []

    @pytest.mark.parametrize(("pause", "found"), [(24 * PANES_PER_HOUR - 1, 1), (24 * PANES_PER_HOUR, 0)])
    def test_within_a_day(self, pause: int, found: int) -> None:
        line = watch(self.BOTH)
        line.pane(0, [Send()])
        assert len(line.pane(pause, [Send(PARCEL)])) == found

    def test_a_mere_change_of_the_name_never_pages(self) -> None:
        line = watch(self.BOTH)
        line.pane(0, [Send(submits=500)])
        found = [line.pane(at, [Send(PARCEL, 500)])[0].severity for at in range(1, 5)]
        assert found == [Severity.INFO] * 4

    def test_names_that_take_turns_page(self) -> None:
        line = watch(self.BOTH)
        found = [line.pane(at, [Send(submits=500), Send(PARCEL, 100)])[0].severity for at in range(2)]
        assert found == [Severity.INFO, Severity.WARNING]

    def test_a_name_whose_filing_has_ended_is_no_first_name(self) -> None:
        line = watch(registry(filing(effective_to=START_MS + PANE_MS), filing(PARCEL)))
        line.pane(0, [Send()])
        assert line.pane(1, [Send(PARCEL)]) == []

    def test_a_second_name_that_is_not_filed_breaks_its_own_rule_and_names_this_one(self) -> None:
        (finding,) = watch(registry()).pane(0, [Send(), Send(NOBODY)])
        assert (finding.rule, finding.evidence["also"]) == ("unfiled", ["second-signature"])

    def test_the_gateway_appended_name_counts(self) -> None:
        filed = registry(filing(is_gateway_signature=True), filing(PARCEL))
        (finding,) = watch(filed).pane(0, [Send(None), Send(PARCEL)])
        assert (finding.rule, finding.evidence["top"][0]["beside"]) == ("second-signature", [BANK])

    def test_the_groups_of_one_full_port_are_looked_at_up_to_a_ceiling(self) -> None:
        names = [f"名{n:03}字" for n in range(200)]
        line = watch(registry(*(filing(name) for name in names)))
        (finding,) = line.pane(0, [Send(name) for name in names])
        assert finding.evidence["names"] == 63


class TestWeight:
    def test_one_slip_is_a_line_in_a_report(self) -> None:
        line = watch(registry())
        assert [line.pane(at, [Send(NOBODY)])[0].severity for at in range(19)] == [Severity.INFO] * 19

    def test_twenty_within_the_hour_in_two_panes_page(self) -> None:
        line = watch(registry())
        severities = [line.pane(at, [Send(NOBODY, 10), Send(submits=100)])[0].severity for at in range(2)]
        assert severities == [Severity.INFO, Severity.WARNING]

    def test_volume_without_persistence_does_not(self) -> None:
        assert watch(registry()).pane(0, [Send(NOBODY, 2_000)])[0].severity == Severity.INFO

    def test_a_thousand_and_a_fifth_of_the_port_are_critical(self) -> None:
        line = watch(registry())
        found = [line.pane(at, [Send(NOBODY, 500), Send(submits=2_000)])[0] for at in range(2)]
        assert found[1].severity == Severity.CRITICAL
        assert (found[1].size, found[1].evidence["share_hour"]) == (1_000.0, 0.2)

    def test_a_thousand_among_more_are_not(self) -> None:
        line = watch(registry())
        found = [line.pane(at, [Send(NOBODY, 500), Send(submits=2_001)])[0] for at in range(2)]
        assert found[1].severity == Severity.WARNING

    def test_the_share_counts_the_ports_other_panes(self) -> None:
        line = watch(registry())
        line.pane(0, [Send(NOBODY, 10)])
        line.pane(1, [Send(submits=80)])
        (finding,) = line.pane(2, [Send(NOBODY, 10)])
        assert (finding.evidence["submits_hour"], finding.evidence["share_hour"]) == (20, 0.2)
        assert finding.evidence["panes_hour"] == 2

    def test_after_an_hour_an_offence_begins_anew(self) -> None:
        line = watch(registry())
        line.pane(0, [Send(NOBODY, 10)])
        (finding,) = line.pane(PANES_PER_HOUR, [Send(NOBODY, 10)])
        assert finding.evidence["since_ms"] == START_MS + HOUR_MS
        assert finding.size == 10.0

    def test_the_hour_slides(self) -> None:
        line = watch(registry())
        sizes = [line.pane(at * PANES_PER_HOUR // 2, [Send(NOBODY, 10)])[0].size for at in range(4)]
        assert sizes == [10.0, 20.0, 20.0, 20.0]


def test_evidence_lists_the_busiest_names_first_and_says_which_are_new() -> None:
    line = watch(registry())
    line.pane(0, [Send("甲甲", 2)])
    sends = [
        Send(name, submits, extension=f"{submits:02}")
        for name, submits in zip("乙丙丁戊己庚", range(3, 9), strict=True)
    ]
    (finding,) = line.pane(1, [Send("甲甲", 9), *sends])
    assert [top["signature"] for top in finding.evidence["top"]] == ["甲甲", "庚", "己", "戊", "丁"]
    assert [top["submits"] for top in finding.evidence["top"]] == [9, 8, 7, 6, 5]
    assert (finding.evidence["names"], finding.evidence["new_names"]) == (7, 6)
    assert finding.evidence["top"][0]["first_seen_ms"] == START_MS
    assert finding.evidence["top"][0]["sample"] == "【甲甲】您的验证码是******"
    assert finding.offsets == (2, 11 + 25, 11 + 18, 11 + 12, 11 + 7)
    assert finding.signature is None


def test_summaries_say_the_same_in_two_languages() -> None:
    (finding,) = watch(registry()).pane(0, [Send(NOBODY, 3), Send(submits=9)])
    assert finding.summary.en == (
        "10690010: 3 submits in the last hour under names that nobody filed (【无名商城】), "
        "25% of what the port sent meanwhile"
    )
    assert finding.summary.zh == "10690010：近一小时 3 条签名未报备（【无名商城】），占同期该端口 25%"


def test_a_port_breaks_several_rules_at_once() -> None:
    assert rules(registry(), Send(NOBODY), Send(None), Send(extension="02")) == [
        "extension-unfiled",
        "missing",
        "unfiled",
    ]


def test_rows_that_found_no_room_are_not_judged() -> None:
    line = Line(registry(), DETECTOR, groups=Groups(group_limit=1))
    assert line.pane(0, [Send(), Send(NOBODY, 5)]) == []


def test_retries_are_no_new_submits() -> None:
    line = watch(registry())
    codes = line.groups.intern(batch([Send(NOBODY).row(1)]), line.registry)
    none, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    pane = Pane(START_MS, START_MS, codes, none, one, one, one, none, line.groups)
    assert DETECTOR.step(line.state, pane, line.registry) == []


def test_open_offences_have_a_ceiling_and_what_is_lost_is_counted() -> None:
    line = watch(registry(), offence_limit=3)
    found = line.pane(0, [Send(extension=f"{n:02}") for n in range(2, 10)])
    assert (len(found), line.state.untracked) == (3, 5)
    assert line.detector.ceilings(line.state)["offences"] == (3, 3, 5)


def test_a_new_snapshot_is_judged_at_once() -> None:
    line = watch(registry())
    assert len(line.pane(0, [Send(NOBODY)])) == 1
    line.registry = registry(filing(), filing(NOBODY))
    assert line.pane(1, [Send(NOBODY)]) == []


def test_renaming_ports_renames_findings_and_nothing_else() -> None:
    sends = [Send(NOBODY, 3), Send(None, 2), Send(extension="02"), Send(PARCEL, 7), Send(LOAN, 4, port=OTHER_PORT)]
    names = {PORT: "10655077", OTHER_PORT: "10690001"}
    filed = registry(filing(), filing(PARCEL), filing(LOAN))
    renamed = Registry(
        ports=tuple(replace(row, access_port=names[row.access_port]) for row in filed.ports),
        filings=tuple(replace(row, access_port=names[row.access_port]) for row in filed.filings),
    )

    def said(found: list[Finding]) -> list[tuple[object, ...]]:
        return [(f.rule, f.severity, f.size, f.signature, f.extension, f.offsets) for f in found]

    before, after = watch(filed), watch(renamed)
    for at in range(3):
        old = before.pane(at, sends)
        new = after.pane(at, [replace(send, port=names[send.port]) for send in sends])
        assert said(new) == said(old)
        assert [f.access_port for f in new] == [names[f.access_port] for f in old]
