"""Registry folders: the contract's rows become values, and a folder with one bad row is not used at all."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.registry import Campaign, Caps, Enterprise, Filing, PortLease, ThirdParty
from detectors.registry import Path as RoutePath
from streams.registry import RegistryError, build, load_folder, parse_row, read_folder, wire_row

JAN_1_MS = 1_767_196_800_000  # 2026-01-01 00:00 in Shanghai
TIME_ALLOWED = "must be epoch milliseconds, ISO 8601 with an offset, or a date, from 2000 to 9999"
JAN_2_MS = JAN_1_MS + 86_400_000

LEASE = PortLease(
    access_port="10690010",
    carriers=("mobile", "unicom"),
    lessee_id="91110000000000000A",
    lessee_name="某某科技有限公司",
    customer_type="platform",
    purposes=("code", "marketing"),
    allow_self_extension=True,
    authorised_from=JAN_1_MS,
    authorised_to=JAN_2_MS,
    third_parties=(ThirdParty(enterprise_id="B", since=JAN_1_MS, to=JAN_2_MS), ThirdParty(enterprise_id="C")),
    paths=(RoutePath(account="acc-1", role="recovery"),),
    caps=Caps(per_minute=100, hours=(22, 8)),
    protected=True,
    effective_from=JAN_1_MS,
)
FILING = Filing(
    access_port="10690010",
    signature="某某科技",
    extension="01",
    carrier="mobile",
    purpose="code",
    state=2,
    is_gateway_signature=True,
    effective_from=JAN_1_MS,
    links=("a.example/x", "b.example"),
)


def write(folder: Path, **files: list[dict[str, object]] | str) -> Path:
    """Rows as name.jsonl, text as name.csv."""
    for name, content in files.items():
        if isinstance(content, str):
            (folder / f"{name}.csv").write_text(content, "utf-8")
        else:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content), "utf-8")
    return folder


def problems(folder: Path) -> list[str]:
    with pytest.raises(RegistryError) as refused:
        read_folder(folder)
    assert str(refused.value) == "\n".join(refused.value.problems)
    return refused.value.problems


def port(**fields: object) -> dict[str, object]:
    return {"access_port": "10690010", **fields}


def filing(**fields: object) -> dict[str, object]:
    return {"access_port": "10690010", "signature": "某某科技", **fields}


def test_jsonl_rows_with_every_spelling_of_a_time(tmp_path: Path) -> None:
    write(
        tmp_path,
        ports=[
            port(
                carriers=["mobile", "unicom"],
                lessee_id="91110000000000000A",
                lessee_name="某某科技有限公司",
                customer_type="platform",
                purposes=["code", "marketing"],
                allow_self_extension=True,
                authorised_from="2026-01-01",
                authorised_to="2026-01-01T16:00:00Z",
                third_parties=[
                    {"enterprise_id": "B", "from": "2026-01-01T00:00:00+08:00", "to": JAN_2_MS},
                    {"enterprise_id": "C", "from": None, "to": ""},
                ],
                paths=[{"account": "acc-1", "role": "recovery"}],
                caps={"per_minute": 100, "hours": [22, 8]},
                protected=True,
                effective_from=JAN_1_MS,
                effective_to=None,
                group_id="",
            )
        ],
        signatures=[],
        enterprises=[{"enterprise_id": "B", "name": "某某", "brands": ["某牌"]}],
        campaigns=[{"lessee_id": "B", "from": "2026-01-01", "to": "2026-01-02", "expected_recipients": 7}],
    )

    registry = load_folder(tmp_path)

    assert registry.ports == (LEASE,)
    assert registry.enterprises == (Enterprise(enterprise_id="B", name="某某", brands=("某牌",)),)
    assert registry.campaigns == (Campaign(lessee_id="B", since=JAN_1_MS, to=JAN_2_MS, expected_recipients=7),)


def test_csv_says_the_same_as_jsonl(tmp_path: Path) -> None:
    write(
        tmp_path,
        ports="\ufeffaccess_port,carriers,lessee_id,lessee_name,customer_type,purposes,allow_self_extension,"
        "authorised_from,authorised_to,third_parties,paths,caps,protected,effective_from,effective_to\r\n"
        "10690010,mobile;unicom,91110000000000000A,某某科技有限公司,platform,"
        '"[""code"", ""marketing""]",true,2026-01-01,2026-01-02,'
        '"[{""enterprise_id"": ""B"", ""from"": ""2026-01-01"", ""to"": ""2026-01-02""}, {""enterprise_id"": ""C""}]",'
        '"[{""account"": ""acc-1"", ""role"": ""recovery""}]",'
        f'"{{""per_minute"": 100, ""hours"": [22, 8]}}",1,{JAN_1_MS},\r\n',
        signatures="access_port,extension,signature,carrier,purpose,state,is_gateway_signature,effective_from,links\n"
        "10690010,01,某某科技,mobile,code,2,true,2026-01-01,a.example/x; b.example\n",
    )

    registry = load_folder(tmp_path)

    assert (registry.ports, registry.filings) == ((LEASE,), (FILING,))
    assert registry.version == build([LEASE], [FILING], [], []).version


def test_one_carrier_and_one_purpose_of_a_port_may_stand_alone(tmp_path: Path) -> None:
    write(tmp_path, ports=[port(carrier="mobile", purpose="code")], signatures=[])

    assert load_folder(tmp_path).ports == (PortLease(access_port="10690010", carriers=("mobile",), purposes=("code",)),)


def test_what_the_contract_does_not_know_is_counted_and_left_alone(tmp_path: Path) -> None:
    write(tmp_path, ports=[port(colour="red"), port(access_port="10690020", colour="blue")], signatures=[])
    (tmp_path / "notes.txt").write_text("kept by hand")

    loaded = read_folder(tmp_path)

    assert len(loaded.registry.ports) == 2
    assert loaded.ignored == {"ports.jsonl: column colour": 2, "notes.txt": 1}


def test_a_byte_order_mark_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    write(tmp_path, signatures=[])
    (tmp_path / "ports.jsonl").write_bytes(
        b'\xef\xbb\xbf{"access_port": "10690010"}\n\n  \n{"access_port": "10690020"}'
    )

    assert [lease.access_port for lease in load_folder(tmp_path).ports] == ["10690010", "10690020"]


def test_every_bad_row_is_named_and_none_is_loaded(tmp_path: Path) -> None:
    write(
        tmp_path,
        ports=[
            port(),
            port(access_port="1069x"),
            port(access_port=10690010),
            {"lessee_id": "A"},
            port(access_port="10690020", state="gone"),
            port(access_port="10690021", carriers=["mobil"]),
            port(access_port="10690022", effective_from="2026-01-01T00:00:00"),
            port(access_port="10690023", effective_from=JAN_1_MS // 1000),
            port(access_port="10690024", effective_from="2026-01-02", effective_to="2026-01-02"),
            port(access_port="10690025", third_parties=[{"enterprise_id": "B", "from": "soon"}]),
            port(access_port="10690026", third_parties=[{"from": "2026-01-01"}]),
            port(access_port="10690027", caps={"hours": [22, 22]}),
            port(access_port="10690028", caps={"per_day": "many"}),
        ],
        signatures=[
            filing(access_port="106900100000000000", extension="123"),
            filing(extension="x"),
            filing(state=4),
            filing(signature=""),
        ],
        campaigns=[
            {"from": "2026-01-01", "to": "2026-01-02", "expected_recipients": 1},
            port(**{"from": "2026-01-01", "to": "2026-01-02", "expected_recipients": -1}),
            port(to="2026-01-02", expected_recipients=1),
        ],
    )
    (tmp_path / "enterprises.jsonl").write_text('{"enterprise_id": \n["B"]\n')

    assert problems(tmp_path) == [
        "ports.jsonl:2: access_port: '1069x': must be 3 to 20 digits",
        "ports.jsonl:3: access_port: 10690010: Expected `str`, got `int`",
        "ports.jsonl:4: access_port: None: is required",
        "ports.jsonl:5: state: 'gone': must be one of online, offline, rectifying",
        "ports.jsonl:6: carriers[0]: ['mobil']: must be one of mobile, unicom, telecom, broadnet",
        f"ports.jsonl:7: effective_from: '2026-01-01T00:00:00': {TIME_ALLOWED}",
        f"ports.jsonl:8: effective_from: {JAN_1_MS // 1000}: {TIME_ALLOWED}",
        f"ports.jsonl:9: effective_to: {JAN_2_MS}: must be later than its beginning, {JAN_2_MS}",
        f"ports.jsonl:10: third_parties.from: 'soon': {TIME_ALLOWED}",
        "ports.jsonl:11: third_parties[0].enterprise_id: None: is required",
        "ports.jsonl:12: caps.hours: (22, 22): must be [from, to], from 0 to 23, to 1 to 24, not the same",
        "ports.jsonl:13: caps.per_day: {'per_day': 'many'}: Expected `int | null`, got `str`",
        "signatures.jsonl:1: extension: '123': must be digits, with access_port at most 20",
        "signatures.jsonl:2: extension: 'x': must be digits, with access_port at most 20",
        "signatures.jsonl:3: state: 4: must be from -2 to 3",
        "signatures.jsonl:4: signature: None: is required",
        "enterprises.jsonl:1: row: '{\"enterprise_id\":': must be JSON (Input data was truncated)",
        "enterprises.jsonl:2: row: ['B']: must be a JSON object",
        "campaigns.jsonl:1: access_port: None: must be there, or lessee_id",
        "campaigns.jsonl:2: expected_recipients: -1: must be 0 or more",
        "campaigns.jsonl:3: from: None: is required",
    ]


def test_bad_csv_cells_are_named(tmp_path: Path) -> None:
    write(
        tmp_path,
        ports="access_port,caps,protected\n10690010,{,\n10690011,,perhaps\n10690012,,,extra\n",
        signatures="access_port,signature,effective_from\n10690010,某某,20260101\n",
    )

    assert problems(tmp_path) == [
        "ports.csv:2: caps: '{': must be JSON",
        "ports.csv:3: protected: 'perhaps': Expected `bool`, got `str`",
        "ports.csv:4: row: ['extra']: has more cells than columns",
        f"signatures.csv:2: effective_from: 20260101: {TIME_ALLOWED}",
    ]


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    write(tmp_path, ports="access_port,state,access_port\n10690010,online,10690011\n", signatures=[])

    assert problems(tmp_path) == ["ports.csv:1: column: 'access_port': must stand there once"]


def test_a_row_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    (tmp_path / "ports.jsonl").write_text('{"access_port":' + "[" * 50_000 + "]" * 50_000 + '}\n{"access_port":5}\n')
    write(tmp_path, signatures=[])

    deep, other = problems(tmp_path)
    assert deep.startswith("ports.jsonl:1: row: ")
    assert other.startswith("ports.jsonl:2: access_port: 5: ")


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "ports.csv").write_bytes("access_port,lessee_name\n10690010,科技\n".encode("gb18030"))
    write(tmp_path, signatures=[])

    (problem,) = problems(tmp_path)
    assert problem.startswith("ports.csv: ")
    assert problem.endswith("must be a readable UTF-8 file")


@pytest.mark.parametrize(
    ("first", "second", "is_overlap"),
    [
        (("2026-01-01", "2026-01-02"), ("2026-01-02", None), False),  # half-open: they meet
        (("2026-01-01", "2026-01-03"), ("2026-01-02", None), True),
        ((None, None), ("2026-01-02", "2026-01-03"), True),
        (("2026-01-02", None), (None, "2026-01-02"), False),  # whatever their order
    ],
)
def test_rows_of_one_key_are_a_history_and_must_not_overlap(
    tmp_path: Path, first: tuple[str | None, ...], second: tuple[str | None, ...], *, is_overlap: bool
) -> None:
    rows = [filing(effective_from=since, effective_to=to, carrier="mobile") for since, to in (first, second)]
    write(tmp_path, ports=[], signatures=rows)

    if is_overlap:
        (problem,) = problems(tmp_path)
        assert problem.endswith("overlaps another row of 10690010, 某某科技, mobile")
    else:
        assert len(load_folder(tmp_path).filings) == 2


def test_a_long_row_overlaps_all_that_follow_it(tmp_path: Path) -> None:
    spans = [("2026-01-01", "2026-12-31"), ("2026-02-01", "2026-03-01"), ("2026-04-01", "2026-05-01")]
    write(tmp_path, ports=[port(effective_from=since, effective_to=to) for since, to in spans], signatures=[])

    assert [problem.split(":")[1] for problem in problems(tmp_path)] == ["2", "3"]


def test_rows_without_dates_overlap_as_well(tmp_path: Path) -> None:
    write(tmp_path, ports=[port(), port()], signatures=[])

    assert problems(tmp_path) == ["ports.jsonl:2: effective_from: None: overlaps another row of 10690010"]


@pytest.mark.parametrize(
    ("one", "other", "is_warned"),
    [
        ({"carrier": "mobile"}, {"carrier": "mobile"}, True),
        ({"carrier": None}, {"carrier": "mobile"}, True),
        ({"carrier": "unicom"}, {"carrier": "mobile"}, False),
        ({"effective_to": "2026-01-02"}, {"effective_from": "2026-01-02"}, False),
        ({"state": 2}, {}, False),
        ({"extension": "02"}, {}, False),
    ],
)
def test_two_names_in_force_on_one_full_port_are_a_warning(
    tmp_path: Path, one: dict[str, object], other: dict[str, object], *, is_warned: bool
) -> None:
    rows = [
        filing(**{"signature": "甲", "extension": "01", **one}),
        filing(**{"signature": "乙", "extension": "01", **other}),
    ]
    write(tmp_path, ports=[], signatures=rows)

    warnings = read_folder(tmp_path).warnings

    assert warnings == (["1069001001: '甲' and '乙' are in force at the same time"] if is_warned else [])


def test_a_filing_for_any_extension_names_no_full_port(tmp_path: Path) -> None:
    rows = [filing(signature="甲"), filing(signature="乙")]

    write(tmp_path, ports=[port(allow_self_extension=True)], signatures=rows)
    assert read_folder(tmp_path).warnings == []
    write(tmp_path, ports=[port(allow_self_extension=False)], signatures=rows)
    assert read_folder(tmp_path).warnings == ["10690010: '甲' and '乙' are in force at the same time"]


def test_a_folder_must_be_there_and_have_something_to_judge_by(tmp_path: Path) -> None:
    assert problems(tmp_path / "absent") == [f"{tmp_path / 'absent'}: no such folder"]
    assert problems(tmp_path) == [
        f"{tmp_path}: no ports.jsonl and no ports.csv",
        f"{tmp_path}: no signatures.jsonl and no signatures.csv",
    ]
    write(tmp_path, ports=[])
    assert read_folder(tmp_path).warnings == [f"{tmp_path}: no signatures.jsonl and no signatures.csv"]


def test_a_file_must_not_be_there_twice(tmp_path: Path) -> None:
    write(tmp_path, ports=[], signatures=[])
    write(tmp_path, ports="access_port\n")

    assert problems(tmp_path) == [f"{tmp_path}: both ports.jsonl and ports.csv: keep one of them"]


def test_the_version_is_of_the_rows_not_of_their_order_or_file() -> None:
    other = PortLease(access_port="10690020")

    version = build([LEASE, other], [FILING], [], []).version
    assert build([other, LEASE], [FILING], [], []).version == version
    assert build([LEASE, other], [], [], []).version != version
    assert build([LEASE, LEASE], [], [], []).version != build([], [], [], []).version


def test_our_own_names_mean_nothing_on_the_wire(tmp_path: Path) -> None:
    write(
        tmp_path,
        ports=[port(third_parties=[{"enterprise_id": "B", "since": JAN_1_MS}])],
        campaigns=[port(**{"since": JAN_2_MS, "from": JAN_1_MS, "to": JAN_2_MS, "expected_recipients": 1})],
    )

    loaded = read_folder(tmp_path)

    assert loaded.registry.ports[0].third_parties == (ThirdParty(enterprise_id="B"),)
    assert loaded.registry.campaigns[0].since == JAN_1_MS
    assert loaded.ignored["campaigns.jsonl: column since"] == 1


digits = st.text("0123456789", min_size=3, max_size=10)
moments = st.none() | st.integers(JAN_1_MS, JAN_2_MS)


@given(
    st.builds(
        PortLease,
        access_port=digits,
        carriers=st.lists(st.sampled_from(["mobile", "unicom", "telecom", "broadnet"])).map(tuple),
        lessee_id=st.none() | st.text(min_size=1),
        authorised_from=moments,
        third_parties=st.lists(st.builds(ThirdParty, enterprise_id=st.text(min_size=1), since=moments)).map(tuple),
        caps=st.none() | st.builds(Caps, per_day=st.none() | st.integers(0, 10**9)),
        protected=st.booleans(),
    )
)
def test_a_row_survives_the_wire(lease: PortLease) -> None:
    wire = json.loads(json.dumps(wire_row(lease)))
    assert parse_row(PortLease, wire) == lease
