"""The MLLP way in serves clients that are not ours: yes for what is durable, no with its reason, each in words they can read."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import hl7
import pytest

from pipeline.domain.event import Event
from pipeline.domain.records import Raw
from pipeline.formats.hl7v2.er7 import Message, parse
from pipeline.formats.hl7v2.framing import frame
from pipeline.formats.hl7v2.header import identity_digest, identity_of
from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.verdict import Rejected
from pipeline.kafka.crypto import RawCipher
from pipeline.local.stack import Stack
from pipeline.roles.process import now_ms
from pipeline.roles.ways_in.intake import hl7_profile
from tests.foreign.clients import Client, Heard
from tests.support.hl7_samples import adt
from tests.support.stacks import records

PROFILE: Final = hl7_profile("default", "GENERAL")
TENANT: Final = "demo"
SERVED: Final = {"hapi-hl7v2": 0.7}
"""Of the real messages, how many each client must be able to send, where not MOST: the rest its own parser refuses. HAPI takes no
fifth encoding character (2.7), and nothing but CR ends a segment there."""
MOST: Final = 0.9
TRIES: Final = 3
"""AE and CE ask to send again: a broker on a busy machine may not have taken it in time."""


def of_client(client: Client, number: int, message: bytes) -> bytes:
    """The message as this client's own: MSH-3 names it, and MSH-10 is used once."""
    separator = message[3:4]
    header, end, rest = message.partition(b"\r")
    fields = header.split(separator)
    fields += [b""] * (10 - len(fields))
    fields[2], fields[9] = client.name.encode(), f"F{number:04d}".encode()
    return separator.join(fields) + end + rest


def put(folder: Path, messages: Sequence[bytes]) -> list[Path]:
    files = [folder / f"{number:04d}.hl7" for number in range(len(messages))]
    for file, message in zip(files, messages, strict=True):
        file.write_bytes(message)
    return files


def one(client: Client, stack: Stack, folder: Path, message: bytes, *, tls: Path | None = None, answers: int = 1) -> Heard:
    """What it heard of one message, on a connection of its own."""
    folder.mkdir()
    files = put(folder, [message])
    for _ in range(TRIES):
        heard = client.send(stack.mllp_port, files, tls, answers)
        assert len(heard) == 1, "the client ended without a word"
        if not {answer.code for answer in heard[0].answers} & {"AE", "CE"}:
            break
    return heard[0]


def real_messages(shared_data: Path) -> list[bytes]:
    """The messages of independent origin whose header can be read; batches aside, which these clients don't know."""
    read = [file.read_bytes() for file in sorted((shared_data / "hl7v2").glob("*.hl7"))]
    return [in_original_mode(data) for data in read if data.startswith(b"MSH") and isinstance(parse(data), Message)]


def in_original_mode(message: bytes) -> bytes:
    """Without MSH-15 and 16: some of them want to hear nothing, which these clients would wait for."""
    separator = message[3:4]
    header, end, rest = message.partition(b"\r")
    fields = header.split(separator)
    fields[14:16] = [b""] * len(fields[14:16])
    return separator.join(fields) + end + rest


def stored_at(stack: Stack) -> dict[str, Raw]:
    """What lies on `raw.mllp`, by identity."""
    return {record.identity: record for record in records(stack, "raw.mllp") if isinstance(record, Raw)}


def digest_of(message: bytes) -> str:
    """Key under which a message that is not refused is stored."""
    read = parse(message)
    assert isinstance(read, Message)
    return identity_digest(TENANT, PROFILE.source_system, identity_of(read, message))


def is_named(message: bytes) -> bool:
    """Whether its identity is in its header, and not its bytes, which an engine may write otherwise."""
    read = parse(message)
    return isinstance(read, Message) and identity_of(read, message)[0] != "sha256"


def is_refused(message: bytes) -> bool:
    return isinstance(map_bytes(message, PROFILE, TENANT, now_ms())[1], Rejected)


def test_real_messages_are_answered_as_they_mean_and_a_yes_lies_on_raw(
    client: Client, way_in: Stack, shared_data: Path, tmp_path: Path
) -> None:
    messages = [of_client(client, number, each) for number, each in enumerate(real_messages(shared_data))]
    files = put(tmp_path, messages)
    heard = client.send(way_in.mllp_port, files)
    assert [each.file for each in heard] == [file.name for file in files], "each is answered, in its order"
    sent = {int(each.file[:4]): each.answers[0] for each in heard if each.answers}
    assert len(sent) >= SERVED.get(client.name, MOST) * len(messages), {each.file: each.failed for each in heard if each.failed}
    wrong = {
        number: answer
        for number, answer in sent.items()
        if answer.control_id != f"F{number:04d}" or answer.code != ("AR" if is_refused(messages[number]) else "AA")
    }
    assert not wrong
    stored = stored_at(way_in)
    accepted = [messages[number] for number, answer in sent.items() if answer.code == "AA"]
    assert not [message for message in accepted if is_named(message) and digest_of(message) not in stored]


def test_what_was_acknowledged_lies_on_raw_byte_for_byte(client: Client, way_in: Stack, tmp_path: Path) -> None:
    messages = [of_client(client, 1000 + number, adt("A08", msh={7: "20260105101501"})) for number in range(5)]
    heard = client.send(way_in.mllp_port, put(tmp_path, messages))
    assert [each.answers[0].code for each in heard] == ["AA"] * 5
    settings = way_in.settings
    cipher, stored = RawCipher(settings.raw_keys(), settings.raw_key()[0]), stored_at(way_in)
    for message in messages:
        raw = stored[digest_of(message)]
        assert cipher.open(raw.key_id, raw.identity, raw.ciphertext).rstrip(b"\r") == message.rstrip(b"\r")
    landed = [event for event in records(way_in, "landing.encounter") if isinstance(event, Event)]
    assert {event.control_id for event in landed} >= {f"F{1000 + number:04d}" for number in range(5)}


def test_a_repeated_message_gets_the_same_acknowledgement_on_another_connection(
    client: Client, way_in: Stack, tmp_path: Path
) -> None:
    message = of_client(client, 2000, adt("A01"))
    first, second = (one(client, way_in, tmp_path / name, message).answers[0] for name in ("first", "second"))
    assert (first.code, first.control_id) == ("AA", "F2000")
    assert first.text == second.text


def test_a_refusal_is_read_with_its_error_by_their_parser(client: Client, way_in: Stack, tmp_path: Path) -> None:
    unknown = one(client, way_in, tmp_path / "event", of_client(client, 3000, adt("A90"))).answers[0]
    assert (unknown.code, unknown.control_id, unknown.error) == ("AR", "F3000", "201")
    nobody = one(client, way_in, tmp_path / "patient", of_client(client, 3001, adt("A01", pid={3: ""}))).answers[0]
    assert (nobody.code, nobody.control_id, nobody.error) == ("AR", "F3001", "101")
    assert nobody.reason, "our own reason stands in ERR-5"


def test_another_message_under_a_known_control_id_is_refused_as_a_duplicate_key(
    client: Client, way_in: Stack, tmp_path: Path
) -> None:
    first = one(client, way_in, tmp_path / "first", of_client(client, 4000, adt("A01"))).answers[0]
    other = one(client, way_in, tmp_path / "other", of_client(client, 4000, adt("A01", pv1={19: "V2"}))).answers[0]
    assert (first.code, other.code, other.error) == ("AA", "AR", "205")


@pytest.mark.parametrize(
    ("accept", "application", "codes"),
    [("AL", "NE", ["CA"]), ("NE", "AL", ["AA"]), ("AL", "AL", ["CA", "AA"]), ("SU", "ER", ["CA"])],
)
def test_enhanced_mode_answers_what_the_sender_asked_to_hear(
    client: Client, way_in: Stack, tmp_path: Path, accept: str, application: str, codes: list[str]
) -> None:
    if len(codes) > client.answers:
        pytest.skip(f"{client.name} hears one answer only")
    number = 5000 + int.from_bytes(f"{accept[0]}{application[0]}".encode()) % 1000
    message = of_client(client, number, adt("A01", msh={7: "20260105101502", 15: accept, 16: application}))
    heard = one(client, way_in, tmp_path / "enhanced", message, answers=len(codes))
    assert [(answer.code, answer.control_id) for answer in heard.answers] == [(code, f"F{number:04d}") for code in codes]


def test_a_refusal_in_enhanced_mode_is_told_at_the_commit(client: Client, way_in: Stack, tmp_path: Path) -> None:
    message = of_client(client, 6000, adt("A90", msh={15: "AL", 16: "AL"}))
    told = one(client, way_in, tmp_path / "refused", message).answers[0]
    assert (told.code, told.control_id, told.error) == ("CR", "F6000", "201")


def test_a_client_with_a_certificate_of_the_authority_is_served_behind_tls(
    client: Client, secured: Stack, certificates: Path, tmp_path: Path
) -> None:
    message = of_client(client, 7000, adt("A01"))
    told = one(client, secured, tmp_path / "tls", message, tls=certificates / "known").answers[0]
    assert (told.code, told.control_id) == ("AA", "F7000")
    assert digest_of(message) in stored_at(secured)


def test_a_client_without_a_certificate_is_told_nothing_and_nothing_of_it_is_kept(
    stranger: Client, secured: Stack, certificates: Path, tmp_path: Path
) -> None:
    message = of_client(stranger, 8000, adt("A01"))
    heard = stranger.send(secured.mllp_port, put(tmp_path, [message]), certificates / "unknown")
    assert not [each for each in heard if each.answers]
    assert digest_of(message) not in stored_at(secured)


def test_the_command_mllp_send_prints_an_acknowledgement_of_each_message_of_a_file(way_in: Stack, tmp_path: Path) -> None:
    own = Client("mllp_send", ())
    messages = [of_client(own, 9000 + number, adt("A01" if number % 2 else "A90")) for number in range(10)]
    stream = tmp_path / "stream.mllp"
    stream.write_bytes(b"".join(map(frame, messages)))
    program = str(Path(sys.executable).with_name("mllp_send"))
    command = [program, "--port", str(way_in.mllp_port), "--file", str(stream), "127.0.0.1"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    answers = [hl7.parse(each.lstrip(b"\x0b").decode()) for each in done.stdout.split(b"\x1c\r\n") if each]
    assert [answer.extract_field("MSA", 1, 2) for answer in answers] == [f"F{9000 + number}" for number in range(10)]
    assert [answer.extract_field("MSA", 1, 1) for answer in answers] == ["AR", "AA"] * 5
