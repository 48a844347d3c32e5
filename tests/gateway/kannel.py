"""A real Kannel for tests: bearerbox, smsbox, a fake SMSC and an SMPP one, in a network namespace of their own.

The namespace is there because Kannel listens on all interfaces; in it nobody else does, so its ports are fixed. This
file is also the program that runs inside it (`main`): it starts the boxes, passes requests to sendsms, and ends them
when its input ends, however its parent ends.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import IO, Self

FAKE_SMSC_PROGRAM = Path("/usr/lib/kannel/test/fakesmsc")
ADMIN_PORT, SMSBOX_PORT, SENDSMS_PORT, FAKE_PORT, SMPP_PORT = 13000, 13001, 13013, 10000, 2775
PASSWORD = "x"
ROTATED = "the log was rotated"
TIMEOUT_S = 20.0
TWO_ACCOUNTS = ("acme", "byte]firm")
RECORD_END = re.compile(rb"\] \[udh:\d+:[0-9A-F]*\]$", re.MULTILINE)

BEARERBOX = f"""
group = core
admin-port = {ADMIN_PORT}
admin-password = {PASSWORD}
smsbox-port = {SMSBOX_PORT}
access-log = access.log
log-file = bearerbox.log

group = smsc
smsc = fake
smsc-id = fake
allowed-smsc-id = fake
port = {FAKE_PORT}

group = smsc
smsc = smpp
smsc-id = smpp
allowed-smsc-id = smpp
host = 127.0.0.1
port = {SMPP_PORT}
smsc-username = portwatch
smsc-password = {PASSWORD}
system-type = VMA
transceiver-mode = true
reconnect-delay = 1

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {SENDSMS_PORT}
log-file = smsbox.log
"""
ACCOUNT = """
group = sendsms-user
username = {account}
password = {password}
concatenation = true
max-messages = 10
"""


class Kannel:
    """A running gateway with the sendsms users `accounts`; its clock's zone is China's.

    SMSC `fake` takes everything. SMSC `smpp` refuses recipients that end in 0000 and gives the others ids 1, 2, ...
    """

    def __init__(self, accounts: Sequence[str] = TWO_ACCOUNTS) -> None:
        self._accounts = accounts

    @classmethod
    def missing(cls) -> str | None:
        """What this machine lacks to run Kannel and what to do about it; None when nothing."""
        if not (shutil.which("bearerbox") and shutil.which("smsbox") and FAKE_SMSC_PROGRAM.exists()):
            return "Kannel: apt-get install kannel kannel-extras"
        if shutil.which("ip") is None:
            return "Kannel's network namespace: apt-get install iproute2"
        if subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode:
            return "Kannel's network namespace: unshare --net must be allowed, as root or with user namespaces"
        return None

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            self.folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="portwatch-kannel-")))
            self.access_log = self.folder / "access.log"
            users = [ACCOUNT.format(account=account, password=PASSWORD) for account in self._accounts]
            (self.folder / "kannel.conf").write_text(BEARERBOX + "".join(users))
            self._process = subprocess.Popen(
                [*_unshare(), sys.executable, __file__, self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TZ": "CST-8"},  # POSIX for UTC+8, known without a zone file
            )
            cleanup.callback(self._stop)
            if (said := self._answer()) != "ready":
                raise RuntimeError(f"Kannel did not start: {said}")
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def send(
        self,
        from_: str,
        to: str,
        text: str | bytes,
        coding: int | None = None,
        username: str = "acme",
        *,
        smsc: str = "fake",
        **parameters: str | bytes,
    ) -> str:
        """One request to sendsms; returns its answer.

        `coding`: 0 GSM 7-bit, 1 binary, 2 UCS2; by default 1 for bytes, 2 for text beyond ASCII, else 0. Bytes go as
        they are. Several recipients are separated by spaces in `to`: the quick way to many messages, since a request
        takes its time. `parameters` are sendsms' own, e.g. `udh` or `dlr_mask`.
        """
        if coding is None:
            coding = 1 if isinstance(text, bytes) else 0 if text.isascii() else 2
        said: dict[str, str | bytes] = {
            "username": username,
            "password": PASSWORD,
            "smsc": smsc,
            "from": from_,
            "to": to,
            "text": text,
            "coding": str(coding),
            **({} if isinstance(text, bytes) else {"charset": "UTF-8"}),
            **{name.replace("_", "-"): value for name, value in parameters.items()},
        }
        return self._ask(urllib.parse.urlencode(said))

    def log_of(self, records: int) -> bytes:
        """The access log once it holds so many records (without the marks of its beginning and end)."""

        def has_all() -> bool:
            return len(RECORD_END.findall(self.access_log.read_bytes())) >= records

        _await(has_all, f"{records} records in the access log")
        return self.access_log.read_bytes()

    def segments_from(self, sender: str) -> int:
        """Segments that SMSC `fake` has received from a sender."""
        received = (self.folder / "fakesmsc.log").read_bytes()
        return len(re.findall(rb"Got message \d+: <" + re.escape(sender.encode()) + b" ", received))

    def rotate(self) -> Path:
        """Rename the access log and let Kannel begin a new one, as logrotate does; returns the old one."""
        old = self.access_log.rename(self.folder / "access.log.1")
        self._ask(ROTATED)
        _await(self.access_log.exists, "a new access log")
        return old

    def _ask(self, line: str) -> str:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            log = self.folder / "bearerbox.log"
            raise RuntimeError("Kannel ended: " + (log.read_text(errors="replace")[-2000:] if log.exists() else ""))
        said: str = json.loads(line)
        return said

    def _stop(self) -> None:
        with self._process:  # closes its input, which ends it, and waits
            pass


def send_one_of_everything(kannel: Kannel) -> bytes:
    """The traffic that tests/data/kannel/access.log holds; returns the access log when all of it is in there."""
    port, phone = "10690010103909", "13800138000"
    kannel.send(port, phone, "【某某科技】您的验证码是123456，五分钟内有效。")
    kannel.send(port, phone, "【某某科技】" + "长" * 150)
    kannel.send(port, phone, "[Acme] code ] [from:1] [to:2] [flags:-1:0:-1:-1:-1] [msg:3:abc] [udh:0:]", coding=0)
    kannel.send(port, phone, "two\nlines, 12€, é", coding=0)
    kannel.send(port, phone, "x" * 400)
    kannel.send(port, phone, "[" * 153)
    kannel.send(port, phone, b"\x00\x01\xff]")
    kannel.send(port, phone, "【某某】一部分".encode("utf-16-be"), coding=2, udh=b"\x05\x00\x03\x1e\x02\x01")
    kannel.send(port, phone, "😀" * 70)
    kannel.send(port, phone, b"not UTF-16 at all", coding=2)
    kannel.send(port, "13800138001 13800138002", "to two")
    kannel.send(port, phone, "goes nowhere", smsc="nowhere")
    kannel.send("1069", phone, "a main port that another one begins with")
    kannel.send("95599", phone, "a port of no lease")
    kannel.send("+10690010", "+8613800138000", "")
    kannel.send("Acme]", phone, "a name for a number")
    kannel.send("1069\n0010", phone, "a line end in the sender")
    kannel.send(port, phone, "again")
    kannel.send(port, phone, "again")
    kannel.send(port, "13800000000", "【某某科技】refused", smsc="smpp")
    kannel.send(port, "13800000001", "【某某科技】taken", smsc="smpp", username="byte]firm")
    kannel.send(port, phone, "with a delivery report", dlr_mask="31", dlr_url="http://127.0.0.1:1/")
    return kannel.log_of(ONE_OF_EVERYTHING)


ONE_OF_EVERYTHING = 25
"""Records that `send_one_of_everything` makes: 22 submits and one discarded, and two delivery reports of the last."""


def _unshare() -> list[str]:
    return ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]


def _await(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {TIMEOUT_S:.0f} s")
        time.sleep(0.05)


# --- inside the namespace ---


def main(folder: Path) -> None:
    """Run the boxes in `folder`; answer every line of standard input, a query of sendsms, with a JSON string."""
    os.chdir(folder)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    threading.Thread(target=_smpp_centre, args=(socket.create_server(("127.0.0.1", SMPP_PORT)),), daemon=True).start()
    with ExitStack() as boxes:
        bearerbox = _start(boxes, "bearerbox", "kannel.conf")
        _await(lambda: _listens(SMSBOX_PORT), "bearerbox")  # its SMSCs listen before

        place = ["-H", "127.0.0.1", "-r", str(FAKE_PORT)]
        _start(boxes, str(FAKE_SMSC_PROGRAM), *place, "-m", "0", "1 2 text x", log=Path("fakesmsc.log"))
        _start(boxes, "smsbox", "kannel.conf")
        _await(lambda: _listens(SENDSMS_PORT) and _status().count("<status>online") == 2, "the two SMSCs online")
        _say("ready")
        for line in sys.stdin:
            if line.strip() == ROTATED:
                bearerbox.send_signal(signal.SIGHUP)
                _say(ROTATED)
            else:
                _say(_get(f"http://127.0.0.1:{SENDSMS_PORT}/cgi-bin/sendsms?{line.strip()}"))


def _start(boxes: ExitStack, *command: str, log: Path = Path(os.devnull)) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def end() -> None:
        process.terminate()
        try:
            process.wait(1.0)  # smsbox waits long for a delivery report's address that does not answer
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    boxes.callback(end)
    return process


def _listens(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _status() -> str:
    return _get(f"http://127.0.0.1:{ADMIN_PORT}/status.xml?password={PASSWORD}")


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 - http to 127.0.0.1
            body: bytes = response.read()
    except urllib.error.HTTPError as refusal:
        body = refusal.read()
    return body.decode(errors="replace")


def _say(text: str) -> None:
    sys.stdout.write(json.dumps(text) + "\n")
    sys.stdout.flush()


BIND = {0x01, 0x02, 0x09}
SUBMIT_SM, RESPONSE, ESME_RINVDSTADR = 0x04, 0x80000000, 0x0B


def _smpp_centre(server: socket.socket) -> None:
    """The least of an SMSC that speaks SMPP 3.4: it binds everybody and takes or refuses what they submit."""
    message_ids = iter(range(1, 1 << 31))
    while True:
        client, _ = server.accept()
        threading.Thread(target=_smpp_session, args=(client.makefile("rwb"), message_ids), daemon=True).start()


def _smpp_session(stream: IO[bytes], message_ids: Iterator[int]) -> None:
    while len(header := stream.read(16)) == 16:
        length, command, _, sequence = struct.unpack(">4I", header)
        body = stream.read(length - 16)
        if command & RESPONSE:
            continue
        status, answer = 0, b""
        if command in BIND:
            answer = b"portwatch\0"
        elif command == SUBMIT_SM:
            # service_type, source ton, npi, address, destination ton, npi, address: C strings and octets, in this order
            recipient = body.split(b"\0", 1)[1][2:].split(b"\0", 1)[1][2:].split(b"\0", 1)[0]
            status = ESME_RINVDSTADR if recipient.endswith(b"0000") else 0
            answer = b"" if status else b"%d\0" % next(message_ids)
        stream.write(struct.pack(">4I", 16 + len(answer), command | RESPONSE, status, sequence) + answer)
        stream.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
