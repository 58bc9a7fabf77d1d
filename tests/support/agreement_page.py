"""docs/mapping/agreement.md: what becomes of each real message, and where other converters say otherwise, with who is right.

`python -m tests.support.agreement_page > docs/mapping/agreement.md`. The verdicts are in `agreement.yaml` beside this file, each
by a row of the v2-to-FHIR guide's tables; a test says where a difference has none, or a verdict no difference. Messages are of
the data of independent origin. Nothing of their content is on the page.
"""

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from pipeline.formats.hl7v2.mapping import map_bytes
from pipeline.formats.hl7v2.verdict import Ignored, Mapped
from pipeline.formats.markdown import table
from tests.conftest import shared_data_folder
from tests.support.agreement import Cell, compared
from tests.support.hl7_samples import DEFAULT, RECEIVED_AT

VERDICTS: Final = Path(__file__).with_name("agreement.yaml")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is right where, by which rows, and why."""

    converter: str
    field: str
    kind: str
    messages: frozenset[str]
    right: str
    rows: tuple[tuple[str, str], ...]
    why: str

    def covers(self, cell: Cell) -> bool:
        """Whether it is about this difference."""
        return (self.converter, self.field, self.kind) == (
            cell.converter,
            cell.field,
            cell.kind,
        ) and cell.message in self.messages


RIGHT: Final = {
    "ours": "ours: the guide's row says what we say",
    "rule": "our rule: the guide maps the segment whatever the trigger is; here the trigger decides what a message states",
    "left out": "left out: theirs by the guide; we leave it out on purpose",
    "theirs": "theirs: a loss of ours",
    "no row": "no row: the guide has none for what decides here",
}
"""What a verdict may say."""


def verdicts() -> tuple[Verdict, ...]:
    """The verdicts, as the file has them."""
    document = yaml.safe_load(VERDICTS.read_text(encoding="utf-8"))
    return tuple(
        Verdict(
            item["converter"],
            item["field"],
            item["kind"],
            frozenset(item["messages"].split()),
            item["right"],
            tuple((file, row) for rows in item["rows"] for file, row in rows.items()),
            item["why"],
        )
        for item in document
    )


def rows_of(data: Path, file: str) -> set[str]:
    """Names of the rows of one of the guide's tables: its field, component, code."""
    with (data / "mappings" / f"{file}.csv").open(encoding="utf-8-sig", newline="") as table_file:
        return {cell for row in csv.reader(table_file) for cell in row[:2]}


_INTRO: Final = """\
# Agreement with other converters

Messages that move capacity and that another converter made a FHIR bundle of, beside what our replica profile writes of the same
message alone, field by field. Made by `python -m tests.support.agreement_page` from data that is not in this repository, and
from the verdicts in `tests/support/agreement.yaml`; do not edit. Each difference has a verdict, by a row of the tables of the
v2-to-FHIR guide (`hl7.fhir.uv.v2mappings` 1.0.0); a test fails where one has none.

The profile is the default one with two lines for five of the senders: a type of identifier more, and `TYPE_IN_AUTHORITY`.
Compared are Patient (identifier, name, birthDate, gender, deceased), Encounter (identifier, class, status, period, location and
its status, serviceType, dischargeDisposition) and Appointment (identifier, status, start, end). Systems of identifiers are each
converter's own, so that values are compared; a place is the names along its chain. A bundle is of one message: what our stay
knows from earlier messages is not in it, and where the message states no status the word is *unknown*. The guide's own sample
bundle of an ADT has no message beside it, and the bundles of the third converter are of laboratory messages. Merges are left out:
what we write of them is about two identities, what the others made of these messages is about one or none.
"""


_SAMPLES: Final = "Under the default profile, as it ships.\n"


def becomes_of(data: Path) -> list[tuple[str, str, str]]:
    """Each real message of a kind that may move capacity: what becomes of it, and by which rule or for which reason."""
    found = []
    for path in sorted((data / "hl7v2").glob("*.hl7")):
        if not path.stem.startswith(("ADT_", "SIU_", "MFN_")):
            continue
        match map_bytes(path.read_bytes(), DEFAULT, "t", RECEIVED_AT)[1]:
            case Mapped(events, unread):
                made = ", ".join(event.entity_type.value for event in events)
                found.append((path.stem, "mapped", made + (f"; not readable: {', '.join(unread)}" if unread else "")))
            case Ignored(detail):
                found.append((path.stem, "ignored", detail))
            case why:
                found.append((path.stem, f"refused: {why.reason.value}", f"{why.field}: {why.detail}"))
    return found


def render(data: Path) -> str:
    """The page, in Markdown."""
    found, judged = compared(data), verdicts()
    agreeing = sum(one.fields - len({cell.field for cell in one.cells}) for one in found)
    parts = (
        _INTRO,
        f"{len(found)} messages, {sum(one.fields for one in found)} fields compared, {agreeing} agree.\n",
        "## Verdicts\n",
        table(
            ("Field", "Converter", "Difference", "Messages", "Right", "By", "Why"),
            (
                (
                    item.field,
                    item.converter,
                    item.kind,
                    ", ".join(sorted(item.messages)),
                    RIGHT[item.right].partition(":")[0],
                    ", ".join(f"{file.rpartition('/')[2]}: {row}" for file, row in item.rows) or "our own rule",
                    item.why,
                )
                for item in judged
            ),
        ),
        "\n".join(f"- *{name.partition(':')[0]}*:{name.partition(':')[2]}" for name in RIGHT.values()) + "\n",
        "## Messages\n",
        table(
            ("Message", "Converter", "Becomes", "Fields", "Differ"),
            (
                (one.message, one.converter, one.becomes, str(one.fields), str(len({cell.field for cell in one.cells})))
                for one in found
            ),
        ),
        "## What becomes of each real message\n",
        _SAMPLES,
        table(("Message", "Becomes", "Events, rule or reason"), becomes_of(data)),
    )
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(render(shared_data_folder()))
