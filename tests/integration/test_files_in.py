"""Managed files through a real broker and gate: killed in the midst, every row counts once and what is newer stands."""

import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import obstore
import pytest

from pipeline.carriers.objects import ObjectCarrier
from pipeline.domain.event import Bed, BedOccupancy, Event, Occupancy
from pipeline.domain.files.life import FileState, FileStatus
from pipeline.domain.identifiers import Millis
from pipeline.domain.records import Accepted, Audit, Decision, DecisionKind, Quarantined, Raw
from pipeline.formats.rfc3339 import rfc3339_of
from pipeline.kafka.crypto import RawCipher
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, wait_for
from tests.conftest import NO_OBJECT_STORE
from tests.support.carrier_adapters import bucket_of, object_server
from tests.support.files_in import HEADER, census, manifest_of, one_partner, put
from tests.support.stacks import ANSWER_S, health, records, stack_at, stopped_at_end, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

SECRET: Final = "Zzyzxqv"
ROWS: Final = 4_500
"""Nine chunks, five seconds at the rate of the partner: time enough to be killed amid them."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """Address of an object store; None where there is none."""
    with ExitStack() as running:
        found: str | None = None
        with suppress(pytest.skip.Exception):
            found = running.enter_context(object_server(tmp_path_factory.mktemp("store") / "objects"))
        yield found


@pytest.fixture(scope="module")
def filed(broker: Broker, store: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gate and the files role; one partner with a folder, and one with a prefix in the object store."""
    folder = tmp_path_factory.mktemp("filed")
    section = one_partner(folder)
    if store is not None:
        secret = folder / "s3.key"
        secret.touch(mode=0o600)
        secret.write_text("not-a-secret-1234")
        objects = {"endpoint": store, "access_key_id": "north", "secret_key_file": str(secret)}
        section["partners"]["lake"] = {**section["partners"]["epic"], "folder": "s3://surgeline/lake", "objects": objects}
    with stopped_at_end(stack_at(folder, broker.bootstrap, overrides={"files": section})) as stack:
        stack.wait_ready(stack.start("gate"), stack.start("files"))
        yield stack


def incoming(stack: Stack) -> Path:
    folder = stack.folder / "epic" / "incoming"
    folder.mkdir(exist_ok=True)
    return folder


def now() -> Millis:
    return Millis(time.time_ns() // 1_000_000)


def send(stack: Stack, name: str, content: bytes, ago_ms: int = 60_000, **said: Any) -> None:
    at = now()
    times = {"created_at": at - ago_ms, "not_before": at - 3_600_000, "not_after": at + 3_600_000}
    put(incoming(stack), content, manifest_of(content, name, **{**times, **said}))


def ack_of(stack: Stack, name: str, timeout_s: float = ANSWER_S * 2) -> dict[str, Any]:
    path = stack.folder / "epic" / "acks" / f"{name}.ack.json"
    wait_for(path.exists, timeout_s, "the file is acknowledged")
    return dict(json.loads(path.read_bytes()))


def newest(stack: Stack) -> dict[str, FileState]:
    return {state.file_id: state for state in records(stack, "files") if isinstance(state, FileState)}


def landed(stack: Stack) -> set[str]:
    """Beds' events so far, each once. The ledger learns of rows in steps of ten chunks only."""
    return {each.event_id for each in records(stack, "landing.bed") if isinstance(each, Event)}


def test_killed_in_the_midst_again_and_again_every_row_of_a_file_counts_once(filed: Stack) -> None:
    name, broken = "census-20260105.csv", frozenset({3, 1_700})
    send(filed, name, census(ROWS, broken=broken, canary=SECRET))
    done = 0
    for _ in range(3):
        wait_for(lambda before=done: len(landed(filed)) > before, ANSWER_S, "more rows are landed than at the last kill")
        filed.kill("files-0")
        done = len(landed(filed))
        assert done < ROWS - 2, "it was killed in the midst"
        filed.wait_ready(filed.start("files"))
    told = ack_of(filed, name)
    assert (told["outcome"], told["landed"], told["rejected"]) == ("taken", ROWS - 2, 2)

    beds = [each for each in records(filed, "landing.bed") if isinstance(each, Event)]
    assert len(landed(filed)) == ROWS - 2
    assert len({event.audit_context for event in beds}) == ROWS - 2, "each row is found by its file and number"
    wait_for(lambda: len(records(filed, "events.accepted")) >= ROWS - 2, ANSWER_S, "the gate has judged every row")
    accepted = Counter(each.entity_id for each in records(filed, "events.accepted") if isinstance(each, Accepted))
    assert (len(accepted), set(accepted.values())) == (ROWS - 2, {1}), "a row that was landed twice is a duplicate"
    kinds = {each.kind for each in records(filed, "decisions") if isinstance(each, Decision)}
    assert kinds <= {DecisionKind.DUPLICATE, DecisionKind.CONTROL}
    assert {each.lane.value for each in records(filed, "events.accepted") if isinstance(each, Accepted)} == {"bulk"}


def test_a_broken_row_lies_in_quarantine_whole_and_encrypted(filed: Stack) -> None:
    ack_of(filed, "census-20260105.csv")
    found = {each.row: each for each in records(filed, "quarantine") if isinstance(each, Quarantined)}
    assert {3, 1_700} <= set(found)
    one = found[3]
    assert (one.line, one.field, one.rule != "", one.remedy != "") == (4, "Occupied", True, True)
    assert one.record is not None
    assert SECRET.encode() not in one.record
    key_id, _ = filed.settings.raw_key()
    cipher = RawCipher(filed.settings.raw_keys(), key_id)
    places = [f"{one.topic}/{one.partition}/{one.offset}/{place}" for place in range(2)]
    opened = [text for place in places if (text := _opened(cipher, place, one.record)) is not None]
    assert opened == [f"MAIN,ICU,3,A,Q,{SECRET}3\r\n".encode()]
    assert all(SECRET.encode() not in each.ciphertext for each in records(filed, "raw.files") if isinstance(each, Raw))


def _opened(cipher: RawCipher, context: str, sealed: bytes) -> bytes | None:
    try:
        return cipher.open_named(context, sealed)
    except ValueError:
        return None


def test_a_snapshot_never_overrides_what_is_newer(filed: Stack) -> None:
    live = {
        "facility": "MAIN",
        "source_system": "ehr-main",
        "feed": "live",
        "entity_type": "bed",
        "namespace": "MAIN",
        "entity_id": "ED/9/A",
        "event_type": "UPDATE",
        "recorded_at": rfc3339_of(Millis(now() - 1_000)),
        "payload": {"occupancy": {"status": "VACANT"}},
    }
    send(filed, "events-20260105.ndjson", json.dumps(live).encode() + b"\n", records=1, schema="canonical-events/1")
    assert ack_of(filed, "events-20260105.ndjson")["landed"] == 1
    send(filed, "census-20260106.csv", HEADER + b"MAIN,ED,9,A,Y,V1\r\n", ago_ms=1_800_000)
    assert ack_of(filed, "census-20260106.csv")["landed"] == 1

    def judged() -> list[Any]:
        found = [each for each in records(filed, "events.accepted") if isinstance(each, Accepted) and each.entity_id == "ED/9/A"]
        return found if len(found) == 2 else []

    wait_for(judged, ANSWER_S, "both were judged")
    last = judged()[-1]
    assert isinstance(last.state, Bed)
    assert last.state.occupancy == BedOccupancy(Occupancy.VACANT), "the census said so half an hour before"
    assert [each.field for each in last.dropped] == ["occupancy"]


def test_sent_again_refused_and_audited(filed: Stack) -> None:
    name = "census-20260107.csv"
    send(filed, name, census(5, first=5_000))
    ack_of(filed, name)
    before = len(records(filed, "landing.bed"))
    send(filed, name, census(5, first=5_000))
    wait_for(lambda: not list(incoming(filed).iterdir()), ANSWER_S, "the repeat is put away")
    send(filed, "census-20260108.csv", census(5, first=6_000), records=4)
    assert ack_of(filed, "census-20260108.csv")["reason"] == "WRONG_COUNT"
    assert len(records(filed, "landing.bed")) == before
    assert {state.status for state in newest(filed).values()} == {FileStatus.TAKEN, FileStatus.REFUSED}
    actions = Counter(each.action for each in records(filed, "audit") if isinstance(each, Audit))
    assert actions["file.taken"] == 4
    assert actions["file.refused"] == 1
    assert filed.complete("audit", "verify")


def test_rejected_rows_are_corrected_under_the_files_own_identity_and_only_they(filed: Stack, tmp_path: Path) -> None:
    name = "census-20260105.csv"
    file_id = ack_of(filed, name)["file_id"]
    shown = json.loads(filed.complete("files", "show", file_id, "--json"))
    assert (shown["status"], shown["rows_found"], shown["gate"]["accepted"]) == ("TAKEN", ROWS - 2, ROWS - 2)
    saved = tmp_path / "rows.csv"
    filed.complete("files", "rejects", file_id[:12], "--save", str(saved))
    assert saved.stat().st_mode & 0o077 == 0
    text = saved.read_text(encoding="utf-8-sig")
    assert [line.split(",")[0] for line in text.splitlines()] == ["row", "3", "1700"]
    assert SECRET in text
    assert SECRET not in surgeline(filed, "files", "rejects", file_id).stdout

    right = text.replace(",Q,", ",Y,")
    foreign = right.splitlines()[1].replace("3,", "4,", 1)
    saved.write_text(right.replace("MAIN,ICU,1700,A,Y", "MAIN,ICU,1700,A,Q") + foreign + "\n")
    tried = surgeline(filed, "files", "replay", file_id, str(saved), "--reason", "codes", "--yes")
    assert tried.returncode == 1, "one row is still broken, another was never rejected"
    assert SECRET not in tried.stdout + tried.stderr
    saved.write_text(right)
    for _ in range(2):  # to say it twice changes nothing
        assert surgeline(filed, "files", "replay", file_id, str(saved), "--reason", "codes", "--yes").returncode == 0
    state = newest(filed)[file_id]
    assert (state.status, state.corrected) == (FileStatus.TAKEN, (3, 1_700))
    mark = f"file {state.sha256[:32]}/"
    events = [each for each in records(filed, "landing.bed") if isinstance(each, Event) and each.audit_context == f"{mark}3"]
    assert len({(event.event_id, event.content_hash) for event in events}) == 1
    assert {event.recorded_at for event in events} == {state.created_at}, "it is as old as its file"


def test_a_held_file_is_landed_once_an_operator_releases_it(filed: Stack) -> None:
    name = "census-20260109.csv"
    send(filed, name, census(10, first=8_000, broken=frozenset({8_000, 8_001})))
    held = ack_of(filed, name)
    assert (held["outcome"], held["rejected"], len(held["rejects"])) == ("held", 0, 2)
    assert surgeline(filed, "files", "release", held["file_id"], "--yes").returncode == 2, "nobody said why"
    filed.complete("files", "release", held["file_id"], "--reason", "checked", "--yes")
    wait_for(lambda: ack_of(filed, name)["outcome"] == "taken", ANSWER_S, "the released file is taken")
    assert (ack_of(filed, name)["landed"], ack_of(filed, name)["rejected"]) == (8, 2)
    assert "file.released" in {each.action for each in records(filed, "audit") if isinstance(each, Audit)}
    assert filed.complete("audit", "verify")


def test_nothing_of_a_row_or_of_a_name_is_in_logs_metrics_or_status(filed: Stack) -> None:
    (incoming(filed) / f"{SECRET}-jane.csv").write_bytes(census(1, canary=SECRET))
    wait_for(lambda: not list(incoming(filed).iterdir()), ANSWER_S, "a name that was not agreed is put away")
    shown = "".join(health(filed, "files-0", path)[1] for path in ("/metrics", "/status"))
    logs = "".join(path.read_text(errors="replace") for path in filed.folder.glob("*.log"))
    assert "surgeline_files_settled_total" in shown
    assert "file.settled" in logs
    assert SECRET not in shown + logs


def test_a_partner_fetches_its_acknowledgement_by_an_address_that_works_for_a_while(
    filed: Stack, store: str | None, tmp_path: Path
) -> None:
    if store is None:
        pytest.skip(NO_OBJECT_STORE)
    name, at = "census-20260111.csv", now()
    bucket = ObjectCarrier(bucket_of(store, "lake"), "partner").store()
    times = {"created_at": at - 60_000, "not_before": at - 3_600_000, "not_after": at + 3_600_000}
    put(tmp_path, census(3, first=9_000), manifest_of(census(3, first=9_000), name, **times))
    for part in ("", ".manifest", ".manifest.jws"):
        obstore.put(bucket, f"lake/incoming/{name}{part}", tmp_path / f"{name}{part}")

    def acknowledged() -> bytes:
        with suppress(FileNotFoundError):
            return bytes(obstore.get(bucket, f"lake/acks/{name}.ack.json").bytes())
        return b""

    wait_for(acknowledged, ANSWER_S * 2, "the file is acknowledged")
    told = json.loads(acknowledged())
    assert (told["outcome"], told["landed"]) == ("taken", 3)
    assert surgeline(filed, "files", "link", told["file_id"]).returncode == 2, "nobody said why"
    links = [
        filed.complete("files", "link", told["file_id"], "--reason", "asked by phone", "--seconds", seconds).strip()
        for seconds in ("300", "1")
    ]
    assert fetched(links[0]) == acknowledged()
    assert fetched(links[0].replace("acks/", "taken/").replace(".ack.json", "")) == 403, "it is for one object"
    wait_for(lambda: fetched(links[1]) == 403, ANSWER_S, "its time is over")
    entries = [each for each in records(filed, "audit") if isinstance(each, Audit) and each.action == "file.link"]
    assert [(each.subject, each.destination, each.reason) for each in entries] == [
        (told["file_id"], "lake", "asked by phone")
    ] * 2
    assert "X-Amz-Signature" not in "".join(str(each.detail) for each in entries)


def fetched(link: str) -> bytes | int:
    """What lies there, or the refusal's status."""
    try:
        with urllib.request.urlopen(link) as answer:
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as refused:
        return refused.code
