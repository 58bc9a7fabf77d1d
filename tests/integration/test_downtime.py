"""Paper, board, report and files out through a real broker and gate: what is typed in shows, what is sent is true and taken."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyrage
import pytest
from joserfc.jwk import OKPKey

from pipeline.domain.files.life import Manifest
from pipeline.domain.files.outgoing import FileOutState, OutStatus
from pipeline.domain.records import Audit
from pipeline.formats.manifest import check_signature, read_manifest
from pipeline.local.servers.broker import Broker
from pipeline.local.stack import Stack, wait_for
from tests.support.downtime import DESK, ago, page, sections, type_in
from tests.support.stacks import ANSWER_S, records, stack_at, stopped_at_end, surgeline

pytestmark = [pytest.mark.integration, pytest.mark.timeout(280)]

KEY: Final = OKPKey.generate_key("Ed25519")


@pytest.fixture(scope="module")
def stood(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gate, boards for one workstation, and files for one receiver."""
    folder = tmp_path_factory.mktemp("downtime")
    with stopped_at_end(stack_at(folder, broker.bootstrap, overrides=sections(folder, KEY))) as stack:
        stack.wait_ready(stack.start("gate"), stack.start("downtime"), stack.start("files-out"))
        yield stack


def outgoing(stack: Stack) -> list[Path]:
    """Files that are there with all their parts, the newest last."""
    found = sorted((stack.folder / "region" / "outgoing").glob("*.csv.age"))
    return [path for path in found if path.with_name(f"{path.name}.manifest.jws").exists()]


def ledger(stack: Stack) -> list[FileOutState]:
    return list({each.file_id: each for each in records(stack, "files.out") if isinstance(each, FileOutState)}.values())


def test_what_was_on_paper_is_on_the_board_with_the_newer_word_kept(stood: Stack) -> None:
    type_in(stood, f"{ago(5)},MAIN,ICU,4,A,clean,,", f"{ago(5)},MAIN,ICU,5,A,dirty,blocked,leak")
    type_in(stood, f"{ago(30)},MAIN,ICU,4,A,contaminated,,")
    wait_for(lambda: "leak" in page(stood), ANSWER_S * 2, "the board shows what was typed in", poll_s=0.5)
    shown = page(stood)
    assert "Contaminated" not in shown, "an older paper takes nothing back"
    assert "Blocked" in shown
    wait_for(lambda: len(list((stood.folder / "desk" / "ICU").glob("*.html.age"))) <= 3, ANSWER_S, "old boards go")
    assert {path.suffix for path in (stood.folder / "desk" / "ICU").iterdir() if not path.name.startswith(".")} == {".age"}
    assert any(each.action == "downtime.entered" for each in records(stood, "audit") if isinstance(each, Audit))


def rows_of(extract: Path) -> list[dict[str, str]]:
    text = pyrage.decrypt(extract.read_bytes(), [DESK]).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def rooms_of(extracts: list[Path]) -> set[str]:
    return {row["Room"] for each in extracts for row in rows_of(each)}


def test_killed_amid_its_work_a_file_is_sent_again_as_it_was_until_it_is_taken(stood: Stack) -> None:
    type_in(stood, f"{ago(5)},MAIN,ICU,4,A,clean,,")
    wait_for(lambda: "4" in rooms_of(outgoing(stood)[-1:]), ANSWER_S * 2, "a capacity extract with the bed is there")
    stood.kill("files-out-0")
    first = outgoing(stood)[-1]
    before = {ending: first.with_name(f"{first.name}{ending}").read_bytes() for ending in ("", ".manifest", ".manifest.jws")}
    first.unlink()
    stood.wait_ready(stood.start("files-out"))
    wait_for(first.exists, ANSWER_S * 2, "it is sent again")
    after = {ending: first.with_name(f"{first.name}{ending}").read_bytes() for ending in before}
    assert before == after
    manifest = read_manifest(after[".manifest"])
    assert isinstance(manifest, Manifest)
    public = {"k1": OKPKey.import_key(KEY.as_pem(private=False))}
    assert check_signature(after[".manifest"], after[".manifest.jws"], "k1", public) is None
    assert [(row["Unit"], row["Room"], row["State"]) for row in rows_of(first)][:1] == [("ICU", "4", "UNKNOWN")]
    name = first.name.removesuffix(".age")
    acks = stood.folder / "region" / "acks"
    acks.mkdir(exist_ok=True)
    (acks / f"{name}.ack.json").write_text(json.dumps({"file": name, "sha256": manifest.sha256, "outcome": "taken"}))
    wait_for(lambda: not first.exists(), ANSWER_S, "what is taken is cleared away")
    assert {each.status for each in ledger(stood) if each.name == name} == {OutStatus.TAKEN}
    listed = json.loads(surgeline(stood, "report", "sent", "--json", "--limit", "1000").stdout)
    assert "TAKEN" in {each["status"] for each in listed if each["name"] == name}


def test_the_safr_report_counts_what_the_gate_has_judged(stood: Stack) -> None:
    type_in(stood, f"{ago(5)},MAIN,MED,1,A,clean,,")
    to = stood.folder / "safr.json"
    said = ("report", "safr", "--facility", "MAIN", "--to", str(to))
    wait_for(lambda: surgeline(stood, *said).returncode == 0, ANSWER_S * 2, "everything was judged")
    report = json.loads(to.read_text())["entry"][2]["resource"]
    assert report["resourceType"] == "MeasureReport"
