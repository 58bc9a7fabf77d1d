"""What the files of one kind are called and what their rows mean: `profiles/files/*.yaml`."""

import codecs
import re
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from msgspec import Meta

from pipeline.domain.event import EntityType, EventType

ENCODINGS: Final = ("utf-8", "windows-1252", "iso-8859-1", "iso-8859-15", "windows-1250", "ascii")
"""One byte or more a character, and a line's end is always the same byte: UTF-16 is not among them."""

PLACEHOLDERS: Final = {
    "{date}": r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}",
    "{time}": r"[0-9]{2}-?[0-9]{2}(?:-?[0-9]{2})?Z?",
    "{n}": r"[0-9]{1,3}",
}
"""All that may differ from name to name. There is no room for a person, so that a name may be shown and logged."""

MAX_NAME_CHARS: Final = 100
DATED_BY_MANIFEST: Final = frozenset({"csv", "fhir"})
"""Formats whose rows take their time from the manifest, all or some: a row of a table, a resource that bears none of its own."""
HL7_MAX_BYTES: Final = 64 << 20
"""A batch of HL7 v2 is counted and checked as a whole, in memory."""

_LITERAL: Final = re.compile(r"[A-Za-z0-9._-]*")
_SCHEMA: Final = re.compile(r"[a-z][a-z0-9-]{1,40}/[0-9]{1,3}")
_DATES: Final = frozenset("YmdHMSyz")

Cell = str


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column. A profile names every column that it knows; `field` is left out where the column says nothing to us."""

    column: Annotated[str, Meta(description="name in the header; capitals and blanks around it don't matter", min_length=1)]
    field: Annotated[str | None, Meta(description="field of the event, e.g. occupancy.status; none: not read")] = None
    values: Annotated[dict[str, str | bool | None], Meta(description="the sender's own codes; null: says nothing")] = {}
    required: Annotated[bool, Meta(description="a row without it is broken")] = False
    optional: Annotated[bool, Meta(description="the file may come without this column")] = False
    empty: Annotated[Literal["unsaid", "cleared"], Meta(description="what an empty cell says")] = "unsaid"


class CsvShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the spreadsheet or program writes CSV."""

    delimiter: Annotated[str, Meta(description="between cells", min_length=1, max_length=1)] = ","
    encoding: Annotated[str, Meta(description="of the text; a UTF-8 byte order mark is taken off")] = "utf-8"
    decimal: Annotated[Literal[".", ","], Meta(description="between whole and part of a number")] = "."
    times: Annotated[tuple[str, ...], Meta(description="forms of times, tried in order: ISO, or as strptime has them")] = ("ISO",)
    true_words: Annotated[tuple[str, ...], Meta(description="words for true, capitals don't matter")] = (
        "y",
        "yes",
        "true",
        "1",
        "x",
    )
    false_words: Annotated[tuple[str, ...], Meta(description="words for false")] = ("n", "no", "false", "0")
    nothing: Annotated[tuple[str, ...], Meta(description="words that stand for an empty cell")] = ()
    unknown_columns: Annotated[Literal["refuse", "ignore"], Meta(description="a column that this profile does not name")] = (
        "refuse"
    )


class FileProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of file. Raises msgspec.ValidationError where it is wrong; nothing is guessed."""

    version: Annotated[str, Meta(description="version of this profile", min_length=1)]
    schema: Annotated[str, Meta(description="what a manifest must say that its rows mean: name/version")]
    names: Annotated[
        tuple[str, ...], Meta(description="forms of names: letters, digits, . _ - and {date} {time} {n}, no others", min_length=1)
    ]
    format: Annotated[Literal["csv", "ndjson", "hl7v2", "fhir"], Meta(description="form of the content")]
    feed: Annotated[str, Meta(description="connection, as sequences and live feeds know it", min_length=1, max_length=64)]
    facility: Annotated[str | None, Meta(description="site where a row names none; else the partner's")] = None
    entity: Annotated[EntityType | None, Meta(description="csv: what a row is about")] = None
    event_type: Annotated[EventType, Meta(description="csv and fhir: what a row says that happened")] = EventType.SNAPSHOT
    id_columns: Annotated[tuple[str, ...], Meta(description="csv: columns that name it, outermost first; joined by /")] = ()
    facility_column: Annotated[str | None, Meta(description="csv: column that names the site")] = None
    namespace: Annotated[str | None, Meta(description="csv: assigning authority of the ids; default: the site")] = None
    time_zone: Annotated[str, Meta(description="IANA zone of times without an offset")] = "UTC"
    always: Annotated[
        dict[str, str],
        Meta(description="csv: parts of fields that no column says, e.g. patient.namespace; {facility}: the site of the row"),
    ] = {}
    columns: Annotated[tuple[Column, ...], Meta(description="csv: the columns")] = ()
    csv: Annotated[CsvShape, Meta(description="csv: how it is written")] = msgspec.field(default_factory=CsvShape)
    hl7_profile: Annotated[str | None, Meta(description="hl7v2: profile of the messages, a name under profiles/hl7")] = None
    ehr_profile: Annotated[str | None, Meta(description="fhir: profile of its server, a name under profiles/ehr")] = None
    fhir_version: Annotated[Literal["R4", "R4B", "R5"], Meta(description="fhir: version of the resources")] = "R4"
    late: Annotated[Literal["take", "refuse"], Meta(description="a file that came after its time")] = "take"
    max_bytes: Annotated[int, Meta(description="largest content", ge=1, le=64 << 30)] = 2 << 30
    max_rejected: Annotated[float, Meta(description="part of the rows that may be broken, else the file is held", ge=0, le=1)] = (
        0.1
    )

    def __post_init__(self) -> None:
        """Refuse what the types can't."""
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> "list[str]":
        found = []
        if _SCHEMA.fullmatch(self.schema) is None:
            found.append("schema: a name in small letters, a slash, a number")
        found += [f"names: {problem}" for name in self.names if (problem := _name_problem(name))]
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            found.append("time_zone: not a zone of the IANA database")
        if self.csv.encoding not in ENCODINGS or codecs.lookup(self.csv.encoding) is None:
            found.append(f"csv.encoding: one of {', '.join(ENCODINGS)}")
        found += [f"csv.times: {form} is neither ISO nor a form of a time" for form in self.csv.times if not _is_time(form)]
        if self.format == "csv":
            found += self._csv_problems()
        if self.format == "hl7v2" and (self.hl7_profile is None or self.max_bytes > HL7_MAX_BYTES):
            found.append(f"hl7v2: names an hl7_profile, and max_bytes up to {HL7_MAX_BYTES}")
        if self.format == "fhir" and self.ehr_profile is None:
            found.append("fhir: names an ehr_profile")
        if self.event_type in (EventType.EXPIRED, EventType.REASSERT, EventType.OVERRIDE):
            found.append("event_type: made by the pipeline itself or by an operator")
        return found

    def _csv_problems(self) -> "list[str]":
        known = {each.column for each in self.columns}
        found = [
            f"{place}: there is no column {name}"
            for place, names in (("id_columns", self.id_columns), ("facility_column", (self.facility_column,)))
            for name in names
            if name is not None and name not in known
        ]
        if self.entity is None or not self.id_columns or not any(each.field for each in self.columns):
            found.append("csv: names its entity, id_columns and at least one column with a field")
        names = {*self.id_columns, self.facility_column}
        found += [
            f"columns: {each.column} names the entity and is not optional"
            for each in self.columns
            if each.optional and each.column in names
        ]
        if len({folded(each.column) for each in self.columns}) != len(self.columns):
            found.append("columns: two have one name")
        if self.csv.delimiter in '"\r\n ' or self.csv.delimiter == self.csv.decimal == ",":
            found.append("csv.delimiter: a character that stands for nothing else")
        return found


def profile_of(text: bytes | str) -> FileProfile:
    """The profile that a YAML file holds. Raises msgspec.ValidationError, with the place, where it is wrong."""
    return msgspec.yaml.decode(text, type=FileProfile)


def bears(profile: FileProfile, name: str) -> bool:
    """Whether a file of this name is one of the profile's; `name` without `.age`."""
    return len(name) <= MAX_NAME_CHARS and any(re.fullmatch(_pattern(form), name, re.ASCII) for form in profile.names)


def folded(name: str) -> str:
    """A column's name as it is compared."""
    return " ".join(name.split()).casefold()


def _pattern(form: str) -> str:
    parts = re.split(r"(\{[a-z]+\})", form)
    return "".join(PLACEHOLDERS.get(part) or re.escape(part) for part in parts)


def _name_problem(form: str) -> str | None:
    parts = re.split(r"(\{[a-z]+\})", form)
    literals = [part for part in parts if part not in PLACEHOLDERS]
    if any(_LITERAL.fullmatch(part) is None for part in literals) or not re.match(r"[A-Za-z0-9]", form):
        return f"letters, digits, . _ - and {', '.join(PLACEHOLDERS)}; the first is a letter or digit"
    if form.endswith((".age", ".manifest", ".jws", ".ack.json", ".tmp", ".part")):
        return "an ending that stands for something else"
    return f"at most {MAX_NAME_CHARS} characters" if len(form) > MAX_NAME_CHARS else None


def _is_time(form: str) -> bool:
    return form == "ISO" or (len(form) <= 40 and set(re.findall(r"%(.)", form)) <= _DATES and "%d" in form)
