"""Names as real texts carry them: every trap class has its cases, and hostile input has its laws."""

import re
import time
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detectors.signature.extract import Form, _read, extract, extract_column
from detectors.signature.masking import masked, shown
from detectors.signature.normalise import normalise

HEAD, TAIL, VARIANT, NONE = Form.HEAD, Form.TAIL, Form.VARIANT, Form.NONE
MALFORMED, CONFLICT = Form.MALFORMED, Form.CONFLICT

Case = tuple[str, str | None, Form]

CASES: dict[str, list[Case]] = {
    "plain head": [
        ("【青禾银行】您的验证码是482913，5分钟内有效，请勿泄露。", "青禾银行", HEAD),
        ("【青禾银行】您尾号1234的账户11月11日支出人民币320.00元，余额1,024.55元。", "青禾银行", HEAD),
        ("【蓝鲸物流】您的快件已到达云杉路驿站，请凭取件码5-3-2018取件。", "蓝鲸物流", HEAD),
        ("【云杉教育】张同学家长您好，周六上午9点开班，请准时到校。", "云杉教育", HEAD),
        ("【赤松网】您的订单已发货，点击 https://s.example.cn/a1 查看物流", "赤松网", HEAD),
        ("【青禾银行信用卡中心】本期账单5,320.00元，到期还款日12月05日。", "青禾银行信用卡中心", HEAD),
        ("【深圳市蓝鲸供应链管理有限公司】您有一笔对账单待确认。", "深圳市蓝鲸供应链管理有限公司", HEAD),
        ("【闪送】骑手已取件，预计14:20送达。", "闪送", HEAD),
        ("【Nimbus】Your code is 482913.", "Nimbus", HEAD),
        ("【JD云】您的实例即将到期。", "JD云", HEAD),
        ("【7天酒店】您的预订已确认。", "7天酒店", HEAD),
        ("【福】新春大集，等你来逛。", None, NONE),
        ("【医】您预约的专家号已确认。", "医", HEAD),
        ("【青禾·私人银行】您的理财经理已更换。", "青禾·私人银行", HEAD),
        ("【青禾银行（北京分行）】网点搬迁公告。", "青禾银行（北京分行）", HEAD),
        ("【云杉-在线】直播课将于今晚8点开始", "云杉-在线", HEAD),
        ("【赤松网】全场满200减50，拒收请回复R", "赤松网", HEAD),
    ],
    "space, BOM and invisible characters before the head": [
        (" 【青禾银行】余额变动", "青禾银行", HEAD),
        ("\u3000\u3000【青禾银行】余额变动", "青禾银行", HEAD),
        ("\r\n【青禾银行】余额变动", "青禾银行", HEAD),
        ("\ufeff【青禾银行】余额变动", "青禾银行", HEAD),
        ("\u200b\u200d【青禾银行】余额变动", "青禾银行", HEAD),
        ("\u202e【青禾银行】余额变动", "青禾银行", HEAD),
        ("\x00【青禾银行】余额变动", "青禾银行", HEAD),
    ],
    "the name is raw and trimmed": [
        ("【 青禾银行 】余额变动", "青禾银行", HEAD),
        ("【青禾　银行】余额变动", "青禾　银行", HEAD),
        ("【ＪＤ云】余额变动", "ＪＤ云", HEAD),
        ("【青禾\u200b银行】余额变动", "青禾\u200b银行", HEAD),
        ("【青禾銀行】余额变动", "青禾銀行", HEAD),
    ],
    "plain tail": [
        ("尊敬的客户，您的账单已出，请按时还款。【青禾银行】", "青禾银行", TAIL),
        ("您的快件已签收，感谢使用【蓝鲸物流】", "蓝鲸物流", TAIL),
        ("周六停课一次，请相互转告。【云杉教育】 ", "云杉教育", TAIL),
        ("周六停课一次，请相互转告。【云杉教育】\n", "云杉教育", TAIL),
        ("周六停课一次，请相互转告【 云杉教育 】", "云杉教育", TAIL),
        ("详询4008001234【蓝鲸物流】", "蓝鲸物流", TAIL),
        ("会员日双倍积分 m.example.cn/x8 【赤松网】", "赤松网", TAIL),
    ],
    "a tail is not the last thing": [
        ("双11全场五折，速来！【赤松网】退订回T", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】回T退订", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】退订请回复TD", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】 拒收请回复R", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】回复TD退订", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】回复“T”退订。", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】（退订回T）", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】(TD退订)", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】如不需要请回复0000退订", "赤松网", TAIL),
        ("本周末看房有礼【云杉置业】（接收免费）", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】（免费接收）", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】客服热线：400-800-1234", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】详询010-88886666。", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】咨询电话4008001234，退订回T", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】https://s.example.cn/k3?a=1&b=2", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】点击链接 s.example.cn/k3 查询 退订回N", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】。", "云杉置业", TAIL),
        ("本周末看房有礼【云杉置业】！！", "云杉置业", TAIL),
        ("双11全场五折，速来！【赤松网】退订回【T】", "赤松网", TAIL),
        ("双11全场五折，速来！【赤松网】回复【TD】退订", "赤松网", TAIL),
    ],
    "text after the bracket, so it is no tail": [
        ("您在【云杉路店】购买的商品已备好，请尽快来取。", None, NONE),
        ("您的【建设一号】理财产品今日到期，收益已到账。", None, NONE),
        ("点击【我的】进入个人中心即可查看本月账单明细。", None, NONE),
        ("本次活动由【赤松网】主办，名额有限，先到先得，报名从速。", None, NONE),
    ],
    "codes in brackets are no signature": [
        ("您的验证码【4482】，5分钟内有效。", None, NONE),
        ("验证码【4482】", None, NONE),
        ("验证码：【482913】", None, NONE),
        ("验证码为【482913】，请勿泄露", None, NONE),
        ("您的动态码是【AX93K】。", None, NONE),
        ("您的动态码是【AXKD】", None, NONE),
        ("您的包裹到了，取件码【5-3-2018】", None, NONE),
        ("请凭【8-2-3021】到云杉路驿站取件", None, NONE),
        ("您的包裹已到，请凭【8-2-3021】", None, NONE),
        ("【4482】是您的验证码，5分钟内有效", None, NONE),
        ("【482913】为您的登录验证码", None, NONE),
        ("【482913】您的验证码，请勿泄露", None, NONE),
        ("【验证码：482913】请勿泄露", None, NONE),
        ("【验证码482913】请勿泄露", None, NONE),
        ("【取件码5-3-2018】请到云杉路驿站取件", None, NONE),
        ("【尾号1234】消费100元", None, NONE),
        ("您的包裹已签收【单号：YT2025111183】", None, NONE),
        ("订单号【20251111083012】已支付", None, NONE),
        ("您的口令【春天来了】", None, NONE),
        ("车牌号【京A12345】", None, NONE),
        ("【蓝鲸物流】您的快件已到，取件码【5-3-2018】", "蓝鲸物流", HEAD),
        ("【青禾银行】验证码【482913】，请勿泄露", "青禾银行", HEAD),
        ("【青禾银行】您尾号【1234】的卡消费100元", "青禾银行", HEAD),
        ("验证码【482913】，请勿告诉他人。【青禾银行】", "青禾银行", TAIL),
        ("您的取件码是【482913】【蓝鲸物流】", "蓝鲸物流", TAIL),
    ],
    "numbers that are names": [
        ("【4399】您的验证码是482913", "4399", HEAD),
        ("【51job】您的验证码是482913，请勿泄露", "51job", HEAD),
        ("【10086】您本月话费为58元", "10086", HEAD),
        ("【12306】您购买的车票已出票", "12306", HEAD),
        ("您的话费余额为3元，请及时充值。【10010】", "10010", TAIL),
        ("您的积分可兑换礼品。【95588】", "95588", TAIL),
    ],
    "neutral words are no sender": [
        ("【温馨提示】您的话费不足10元，请及时充值。", None, NONE),
        ("【重要通知】明日停水，请提前储水。", None, NONE),
        ("【客服通知】您的账户有一笔待处理订单。", None, NONE),
        ("【系统提示】您的密码已修改。", None, NONE),
        ("【验证码】482913，请勿泄露", None, NONE),
        ("【通知】明日开会", None, NONE),
        ("【短信验证码】482913", None, NONE),
        ("【停电通知】明日8时至17时检修停电。", None, NONE),
        ("【测试】这是一条测试短信", None, NONE),
        ("【温馨提示】您的话费不足10元，请及时充值。【云信通讯】", "云信通讯", TAIL),
        ("【温馨提示】双11来了，退订回T", None, NONE),
        ("【验证码】【赤松网】您的验证码是482913", "赤松网", HEAD),
        ("【温馨提示】请按时还款[青禾银行]", "青禾银行", VARIANT),
        ("请注意防范诈骗。【温馨提示】", None, NONE),
        ("【青禾银行】请按时还款【温馨提示】勿泄露密码", "青禾银行", HEAD),
        ("【青禾银行通知】请按时还款", "青禾银行通知", HEAD),
    ],
    "slogan at the head, sender at the tail": [
        ("【天上掉下个好手机！】签到即可参加抽奖。【云信通讯】", "云信通讯", TAIL),
        ("【限时特惠】全场五折，今晚截止！【赤松网】", "赤松网", TAIL),
        ("【双11狂欢】会员专享满减。【赤松网】退订回T", "赤松网", TAIL),
        ("【买4G就上www.example.cn】办理即送流量【云信通讯】", "云信通讯", TAIL),
        ("【开学季钜惠，学费立减500元】名额有限【云杉教育】", "云杉教育", TAIL),
        ("【新店开业】前100名到店有礼。【云杉超市】回T退订", "云杉超市", TAIL),
    ],
    "a lone slogan at the head is what the text claims to be": [
        ("【限时特惠】全场五折，今晚截止！退订回T", "限时特惠", HEAD),
        ("【春装上新】全场八折", "春装上新", HEAD),
    ],
    "a slogan at the tail is no sender": [
        ("新品到店，欢迎选购【全场五折！快来】", None, NONE),
        ("办理即送流量【买4G就上www.example.cn】", None, NONE),
        ("【赤松网】新品到店【全场五折！快来】", "赤松网", HEAD),
    ],
    "an instruction in a bracket is no sender": [
        ("【赤松网】您的优惠券已到账【退订回T】", "赤松网", HEAD),
        ("【赤松网】您的优惠券已到账【回复R拒收】", "赤松网", HEAD),
        ("【赤松网】您的优惠券已到账【点击查看】", "赤松网", HEAD),
        ("【赤松网】回复【1】立即参加", "赤松网", HEAD),
        ("新品到店，不想接收请回复【TD】", None, NONE),
        ("请关注公众号【云杉教育】", None, NONE),
        ("详情请搜索小程序【赤松网】", None, NONE),
        ("请下载【云信】", None, NONE),
        ("新品到店【详询4008001234】", None, NONE),
    ],
    "the same sender twice": [
        ("【青禾银行】您的账单已出。【青禾银行】", "青禾银行", HEAD),
        ("【青禾银行】您的账单已出。【 青禾银行 】", "青禾银行", HEAD),
        ("【ＪＤ云】您的账单已出。【jd云】", "ＪＤ云", HEAD),
        ("【中国移动】话费账单。【移动】", "中国移动", HEAD),
        ("【移动】话费账单。【中国移动】退订回T", "移动", HEAD),
        ("【招行】账单已出。【招商银行】", "招行", HEAD),
        ("【中国移动】话费账单。【10086】", "中国移动", HEAD),
        ("【青禾银行】【青禾银行】您的账单已出。", "青禾银行", HEAD),
    ],
    "two senders": [
        ("【青禾银行】您的贷款已批。【赤松贷款】", "青禾银行", CONFLICT),
        ("【蓝鲸物流】您的课程已开。【云杉教育】退订回T", "蓝鲸物流", CONFLICT),
        ("【云信通讯】领取会员。【赤松网】（接收免费）", "云信通讯", CONFLICT),
    ],
    "other brackets": [
        ("［青禾银行］您的账单已出", "青禾银行", VARIANT),
        ("〖青禾银行〗您的账单已出", "青禾银行", VARIANT),
        ("「青禾银行」您的账单已出", "青禾银行", VARIANT),
        ("『青禾银行』您的账单已出", "青禾银行", VARIANT),
        ("〔青禾银行〕您的账单已出", "青禾银行", VARIANT),
        ("︻青禾银行︼您的账单已出", "青禾银行", VARIANT),
        ("[青禾银行]您的账单已出", "青禾银行", VARIANT),
        ("您的账单已出[青禾银行]", "青禾银行", VARIANT),
        ("您的账单已出［青禾银行］退订回T", "青禾银行", VARIANT),
        ("全场五折，速来！[赤松网]", "赤松网", VARIANT),
        ("全场五折，速来！[赤松网]。", "赤松网", VARIANT),
        ("\ufeff[青禾银行]您的账单已出", "青禾银行", VARIANT),
        ("[通知]您的快件已到[蓝鲸物流]", "蓝鲸物流", VARIANT),
        ("[通知]您的快件已到，请及时领取", None, NONE),
        ("[验证码]482913", None, NONE),
        ("[公告]明日停水一天", None, NONE),
        ("晚上一起吃饭吧[微笑]", None, NONE),
        ("生日快乐[玫瑰][蛋糕]", None, NONE),
        ("您的验证码是[482913]", None, NONE),
        ("验证码[AXKD]", None, NONE),
        ("第一页内容[1/2]", None, NONE),
        ("【青禾银行】您的账单已出[点击查看]", "青禾银行", HEAD),
        ("【青禾银行】余额提醒［退订回T］", "青禾银行", HEAD),
    ],
    "round brackets": [
        ("您的账单已出（青禾银行）", "青禾银行", VARIANT),
        ("您的保单已生效(云杉保险)", "云杉保险", VARIANT),
        ("开业大酬宾（北京赤松商贸有限公司）", "北京赤松商贸有限公司", VARIANT),
        ("全场五折（退订回T）", None, NONE),
        ("全场五折（仅限今日）", None, NONE),
        ("下午三点开会（三楼）", None, NONE),
        ("到时见（记得带伞）", None, NONE),
        ("（青禾银行）您的账单已出", None, NONE),
    ],
    "broken brackets": [
        ("【赤松网 验证码482913，请勿泄露", None, MALFORMED),
        ("【赤松网您的验证码是482913", None, MALFORMED),
        ("赤松网】您的验证码是482913", None, MALFORMED),
        ("【】您的验证码是482913", None, MALFORMED),
        ("【 】您的验证码是482913", None, MALFORMED),
        ("【\u200b】您的验证码是482913", None, MALFORMED),
        ("【【赤松网】】您的验证码是482913", None, MALFORMED),
        ("【赤松网【官方】】您的验证码是482913", None, MALFORMED),
        ("【赤松网]您的验证码是482913", None, MALFORMED),
        ("【赤松网您的验证码是482913【云信】", "云信", MALFORMED),
        ("全场五折，速来【赤松网", None, MALFORMED),
        ("全场五折，速来赤松网】", None, MALFORMED),
        ("全场五折，速来【】", None, MALFORMED),
        ("【" + "很长的口号" * 7 + "】全场五折", None, MALFORMED),
        ("【" + "很长的口号" * 7 + "】全场五折【赤松网】", "赤松网", MALFORMED),
        ("【", None, MALFORMED),
        ("】", None, MALFORMED),
    ],
    "nobody is named": [
        ("", None, NONE),
        (" ", None, NONE),
        ("您的验证码是482913，请勿泄露。", None, NONE),
        ("明天下午三点老地方见", None, NONE),
        ("Your code is 482913", None, NONE),
        ("青禾银行提醒您：账单已出", None, NONE),
        ("《青禾银行》您的账单已出", None, NONE),
    ],
}
TABLE = [(trap, *case) for trap, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("trap", "text", "name", "form"), TABLE)
def test_extraction(trap: str, text: str, name: str | None, form: Form) -> None:
    assert extract(text) == (name, form), trap


def test_a_column_gives_what_each_text_gives_and_none_is_not_judged() -> None:
    texts = [None, *(text for _, text, _, _ in TABLE), None]
    names, forms = extract_column(texts)
    assert list(zip(names[1:-1], forms[1:-1], strict=True)) == [(name, form) for _, _, name, form in TABLE]
    assert (names[0], forms[0], names[-1], forms[-1]) == (None, Form.UNJUDGED, None, Form.UNJUDGED)


BRACKETS = "【】［］[]〖〗「」（）()︻︼"
PIECES = st.sampled_from(
    [
        *BRACKETS,
        "【青禾银行】",
        "[赤松网]",
        "温馨提示",
        "验证码",
        "退订回T",
        "482913",
        "https://s.example.cn/a",
        "。",
        " ",
        "\u200b",
    ]
)
TEXTS = st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=40).map("".join))


@given(TEXTS)
@example("【" * 4_000)
@example("【a" * 2_000)
@example("【a】" * 1_333)
@example("[" * 4_000)
@example("（a" * 2_000 + "）")
def test_the_name_stands_in_the_text_as_it_is(text: str) -> None:
    name, form = extract(text)
    named = form in (Form.HEAD, Form.TAIL, Form.VARIANT, Form.CONFLICT)
    assert (name is not None) == named or form == Form.MALFORMED
    if name is not None:
        assert name in text
        assert name == name.strip() != ""
        assert len(name) <= 30


@given(
    st.sampled_from(["青禾银行", "蓝鲸物流", "JD云", "51job"]),
    st.text(st.characters(exclude_characters=BRACKETS), max_size=200),
)
def test_a_plain_head_is_read_whatever_follows(name: str, body: str) -> None:
    assert extract(f"【{name}】您好{body}") == (name, Form.HEAD)


def test_hostile_texts_are_read_in_linear_time() -> None:
    units = [
        "【",
        "】",
        "【a",
        "【a】",
        "[a]",
        "（公司）",
        " ",
        "退订",
        "1.",
        "a",
        "\u200b",
        "【\u200b】",
        "尊敬的",
        "一",
        "a@",
        "a-",
    ]
    for unit in units:
        text = (unit * 4_000)[:4_000]
        started = time.process_time()
        for _ in range(20):
            extract(text)
            masked(text, *extract(text))
        assert (time.process_time() - started) / 20 < 0.01, unit  # seconds; a square of 4,000 steps takes longer


SAMPLES = [
    ("【青禾银行】您的验证码是482913，请勿泄露。", "【青禾银行】您的验证码是******，请勿泄露。"),
    ("【青禾银行】验证码４８２①Ⅷ٣", "【青禾银行】验证码******"),
    ("【青禾银行】验证码四八二九一三", "【青禾银行】验证码***"),
    ("【青禾银行】尊敬的王小明先生，您好", "【青禾银行】尊敬的***先生，您好"),
    ("【青禾银行】点击https://s.example.cn/u?id=8查看", "【青禾银行】点击***查看"),
    ("【青禾银行】点击s.example.cn/u8查看", "【青禾银行】点击***查看"),
    ("【青禾银行】邮箱wang@example.cn已绑定", "【青禾银行】邮箱***已绑定"),
    ("【青禾银行】\x1b[31m红\u202e字\u0301\n\t第二行", "【青禾银行】[**m红字  第二行"),
    ("您的快件已签收" + "啊" * 40 + "【蓝鲸物流】", "您的快件已签收" + "啊" * 17 + "…【蓝鲸物流】"),
    ("【4482】是您的验证码", "【****】是您的验证码"),
    ("【青禾银行】" + "啊" * 30, "【青禾银行】" + "啊" * 24 + "…"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "sample"), SAMPLES)
def test_masked_samples(text: str, sample: str) -> None:
    assert masked(text, *extract(text)) == sample


@given(TEXTS)
@example("【青禾银行】" + "1" * 4_000)
@example("【青禾银行】" + "www." * 1_000)
def test_a_sample_is_short_and_has_nothing_to_hide(text: str) -> None:
    sample = masked(text, *extract(text))
    assert len(sample) <= 100
    assert not [c for c in sample if unicodedata.category(c)[0] in "CNM"]
    assert not re.search(r"https?://|www\.[!-~]", sample)


def test_a_shown_name_hides_long_numbers_and_marks() -> None:
    assert shown("青禾\u202e银行13800138000") == "青禾银行***"
    assert shown("95588") == "95588"
    assert shown("三一重工") == "三一重工"
    for number in ("138 0013 8000", "1-3-8-0-0-1-3-8", "①③⑧⓪⓪①③⑧", "１３８００１３８０００", "一三八零零一三八"):
        assert shown(f"青禾{number}店") == "青禾***店"
    assert shown("青禾" * 100) == "青禾" * 40 + "…"


@given(st.text(max_size=40))
def test_normalising_twice_is_normalising_once(name: str) -> None:
    assert normalise(normalise(name)) == normalise(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＪＤ云", "jd云"),
        ("青禾 银行", "青禾银行"),
        ("青禾\u200b银行", "青禾银行"),
        ("⾏情", "行情"),
        ("青禾\ufe0f银行", "青禾银行"),
    ],
)
def test_spellings_of_one_name(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@settings(max_examples=20)
@given(st.lists(st.one_of(st.none(), TEXTS), max_size=30))
def test_columns_are_as_long_as_their_texts(texts: list[str | None]) -> None:
    names, forms = extract_column(texts)
    assert [len(names), len(forms)] == [len(texts)] * 2
    assert [form for text, form in zip(texts, forms, strict=True) if text is None] == [Form.UNJUDGED] * texts.count(
        None
    )


@given(
    st.lists(
        st.sampled_from(
            [
                "【青禾银行】",
                "【温馨提示】",
                "【4482】",
                "【青禾】",
                "【",
                "】",
                "您的验证码",
                "回T退订",
                "123",
                "【满100减50】",
                " ",
                "【\u200b】",
            ]
        ),
        max_size=7,
    ).map("".join)
)
def test_the_short_way_reads_what_the_long_way_reads(text: str) -> None:
    assert extract(text) == _read(text)
    assert extract_column([text]) == ([_read(text)[0]], [int(_read(text)[1])])
