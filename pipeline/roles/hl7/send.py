"""`surgeline hl7 send`: messages of files to a receiver over MLLP, and what it says to each."""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pipeline.destinations.auth.tls import TlsFiles, TlsUnusable
from pipeline.destinations.hl7v2.mllp_client import Acknowledged, Address, Bounds, MllpClient, NotSent, Unanswered
from pipeline.formats.hl7v2.ack import Code
from pipeline.formats.hl7v2.er7 import Malformed, Message, parse
from pipeline.formats.hl7v2.header import type_of
from pipeline.formats.hl7v2.mapping import messages_of
from pipeline.formats.hl7v2.verdict import Rejected
from pipeline.roles.process import Refused

MAX_FILE_BYTES: Final = 64 << 20
MAX_MESSAGES: Final = 100_000
"""Of all files together."""

MAX_MESSAGE_BYTES: Final = 16 << 20
GIVE_UP_AFTER: Final = 3
"""Messages in a row that could not be sent at all, or were not answered: then the others are not tried."""

RETRY_S: Final = 1.0
TAKEN: Final = frozenset({Code.AA, Code.CA})
AGAIN: Final = frozenset({Code.AE, Code.CE})

_SHOWN: Final = re.compile(r"[^\x20-\x7e]")
MAX_SHOWN_CHARS: Final = 60


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message of a file. `wrong` says why it can't be sent."""

    source: str
    number: int
    control_id: str
    name: str
    data: bytes
    until_applied: bool = False
    silent: bool = False
    wrong: str = ""

    def __repr__(self) -> str:
        return f"Outgoing({self.name}, {len(self.data)} bytes)"


@dataclass(frozen=True, slots=True)
class Said:
    """What became of it: the code of the answer, or why there is none. `text` may hold a patient's data."""

    outgoing: Outgoing
    code: str
    errors: tuple[str, ...] = ()
    text: str = ""
    tries: int = 1
    took_ms: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether the receiver took it."""
        return self.code in TAKEN or (self.outgoing.silent and self.code == NO_ANSWER)

    def __repr__(self) -> str:
        return f"Said({self.code})"


NO_ANSWER: Final = "no answer"
NOT_SENT: Final = "not sent"


@dataclass(frozen=True, slots=True)
class Line:
    """Where to, and how."""

    host: str
    port: int
    connect_s: float = 10.0
    answer_s: float = 30.0
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def line_to(text: str, line: Line) -> Line:
    """The line with HOST:PORT (an IPv6 address in brackets); Refused where that isn't one."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refused([f"{text}: write HOST:PORT"])
    return replace(line, host=host, port=int(port))


def outgoing_of(files: Sequence[Path], stdin: Callable[[], bytes]) -> Iterator[Outgoing]:
    """The messages of files, of the files of folders in the order of their names, and of standard input (`-`), in order.

    Refused where a file can't be read, is a batch whose counts are wrong, or there are more than MAX_MESSAGES.
    """
    count = 0
    for file in _files(files):
        for number, data in enumerate(_messages(file, stdin), 1):
            count += 1
            if count > MAX_MESSAGES:
                raise Refused([f"{file.name}: more than {MAX_MESSAGES} messages in all"])
            yield _outgoing(file.name if file.name != "-" else "standard input", number, data)


def _files(files: Sequence[Path]) -> Iterator[Path]:
    for file in files:
        if str(file) != "-" and file.is_dir():
            yield from sorted(each for each in file.iterdir() if each.is_file() and not each.name.startswith("."))
        else:
            yield file


def _messages(file: Path, stdin: Callable[[], bytes]) -> Sequence[bytes]:
    try:
        data = stdin() if str(file) == "-" else _bytes_of(file)
    except OSError as error:
        raise Refused([f"{file}: {error.strerror or 'can not be read'}"]) from None
    if len(data) > MAX_FILE_BYTES:
        raise Refused([f"{file}: more than {MAX_FILE_BYTES} bytes"])
    found = messages_of(data)
    if isinstance(found, Rejected):
        raise Refused([f"{file}: {found.reason.value} at {found.field}: {found.detail}. {found.remedy}"])
    return found


def _bytes_of(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_FILE_BYTES + 1)


def _outgoing(source: str, number: int, data: bytes) -> Outgoing:
    message = parse(data, max_bytes=MAX_MESSAGE_BYTES)
    if isinstance(message, Malformed):
        return Outgoing(source, number, "", "no message", data, wrong=f"{message.reason} at {message.where}")
    control_id = (message.field("MSH", 10) or "").strip()
    kind, trigger = type_of(message)
    name = shown(f"{kind}^{trigger}" if trigger else kind)
    wrong = "" if control_id else "no MSH-10, so that no answer could be told to be its own"
    until_applied, silent = _answers(message)
    # The bytes themselves, as they stand in the file, but for what ends its lines.
    ended = data.removeprefix(b"\xef\xbb\xbf").strip(b"\r\n\x0b\x1c").replace(b"\r\n", b"\r")
    body = ended.replace(b"\n", b"\r") if b"\r" not in ended else ended
    return Outgoing(source, number, control_id, name, body + b"\r", until_applied, silent, wrong)


def _answers(message: Message) -> tuple[bool, bool]:
    """Whether the application's answer is the last word, and whether it asks for none where all is well (table 0155)."""
    commit, applied = ((message.field("MSH", n) or "").strip().upper() for n in (15, 16))
    enhanced = bool(commit or applied)
    silent = enhanced and commit in ("NE", "ER", "") and applied in ("NE", "ER", "")
    return applied in ("AL", "SU"), silent


def shown(text: str) -> str:
    """A text for the terminal: printable, and not long."""
    clean = _SHOWN.sub("?", text)
    return clean if len(clean) <= MAX_SHOWN_CHARS else f"{clean[:MAX_SHOWN_CHARS]}…"


def tls_of(line: Line) -> ssl.SSLContext | None:
    """The context for one connection; None without TLS. Refused where the files make none."""
    files = _tls_files(line)
    return None if files is None else files.context()


def _tls_files(line: Line) -> TlsFiles | None:
    if not line.tls:
        return None
    try:
        return TlsFiles(line.ca_file, line.cert_file, line.key_file, lambda _: None)
    except TlsUnusable:
        raise Refused(["the files make no TLS. All PEM? Is it the certificate's own key, without a pass phrase?"]) from None


class Sending:
    """Sends messages in their order, at most `window` unanswered at once, and tells of each when it has its answer."""

    def __init__(self, line: Line, window: int, rate_per_s: float | None, retries: int, tell: Callable[[Said], None]) -> None:
        tls = _tls_files(line)
        try:
            self._client = MllpClient(
                Address(line.host, line.port, None if tls is None else tls.context), Bounds(line.connect_s, line.answer_s)
            )
        except ssl.SSLError:
            raise Refused(["TLS can't be had"]) from None
        self._window = asyncio.Semaphore(window)
        self._every_s = 1 / rate_per_s if rate_per_s else 0.0
        self._retries, self._tell = retries, tell
        self._under_way: dict[str, asyncio.Event] = {}
        self._unheard = 0

    async def run(self, messages: Iterator[Outgoing]) -> list[Said]:
        """Everything that was said, in the order of the messages."""
        tasks: list[asyncio.Task[Said]] = []
        next_at = time.monotonic()
        try:
            for outgoing in messages:
                await self._window.acquire()
                wait_s = next_at - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                next_at = max(next_at, time.monotonic()) + self._every_s
                tasks.append(asyncio.create_task(self._one(outgoing)))
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await self._client.close()

    async def _one(self, outgoing: Outgoing) -> Said:
        try:
            said = await self._said(outgoing)
        finally:
            self._window.release()
        self._tell(said)
        return said

    async def _said(self, outgoing: Outgoing) -> Said:
        if outgoing.wrong:
            return Said(outgoing, NOT_SENT, text=outgoing.wrong, tries=0)
        while (before := self._under_way.get(outgoing.control_id)) is not None:
            await before.wait()
        done = self._under_way[outgoing.control_id] = asyncio.Event()
        try:
            return await self._tried(outgoing)
        finally:
            del self._under_way[outgoing.control_id]
            done.set()

    async def _tried(self, outgoing: Outgoing) -> Said:
        tries, began = 0, time.monotonic()
        while True:
            if self._unheard >= GIVE_UP_AFTER:
                return Said(outgoing, NOT_SENT, text="the receiver does not answer", tries=tries)
            tries += 1
            answer = await self._client.send(outgoing.control_id, outgoing.data, until_applied=outgoing.until_applied)
            took_ms = (time.monotonic() - began) * 1000
            match answer:
                case Acknowledged(code, errors, text):
                    self._unheard = 0
                    said = Said(outgoing, code.value, errors, text, tries, took_ms)
                    again = code in AGAIN
                case Unanswered():
                    self._unheard += not outgoing.silent
                    said, again = Said(outgoing, NO_ANSWER, tries=tries, took_ms=took_ms), not outgoing.silent
                case NotSent():
                    self._unheard += 1
                    said, again = Said(outgoing, NOT_SENT, text="nobody takes the connection", tries=tries), True
            if not again or tries > self._retries:
                return said
            await asyncio.sleep(RETRY_S)
