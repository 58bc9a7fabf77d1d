"""CSV: a snapshot, extract, roster, schedule or master as a table, one entity a row, read as its profile says. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import msgspec
from msgspec import UNSET

from pipeline.domain.event import PAYLOADS, EntityType, Event, Payload, SequenceBasis, sealed
from pipeline.domain.identifiers import EntityKey, derive_event_id
from pipeline.formats.files.cells import Converter, SaysNothing, converter_of
from pipeline.formats.files.profile import Column, FileProfile, folded
from pipeline.formats.files.records import CsvRecord, CsvRecords, Lines
from pipeline.formats.files.rows import Bad, Entry, Origin, Unreadable
from pipeline.formats.json_shapes import CODE_MAX_CHARS, ID_MAX_CHARS, Record, Refused, Rule, Text, record_of

_NO_CELL: Final = ""
FACILITY: Final = "{facility}"
"""Stands in a profile's `always` for the site of the row."""
_ID: Final = Text(ID_MAX_CHARS)
_CODE: Final = Text(CODE_MAX_CHARS)


@dataclass(slots=True)
class Said:
    """What a row says: the entity, its site, and its fields."""

    entity_id: str
    facility: str
    payload: Payload

    def __repr__(self) -> str:
        return "Said(<redacted>)"


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A column that states a field, or a part of one."""

    column: str
    name: str
    read: Converter
    cleared: bool


class BadProfile(ValueError):
    """A profile names a field that its entity does not have."""


class Table:
    """Reads the CSV files of one profile."""

    def __init__(self, profile: FileProfile, facility: str, is_dated_by_file: bool = False) -> None:
        """`facility` is the site where neither a row nor the profile names one. `BadProfile` where a column's field is none of
        the entity's. `is_dated_by_file`: its rows are of the moment that the file is of, which is then part of what each is
        known by; without it the caller gives each row a time of its own."""
        assert profile.entity is not None
        self._facility = profile.facility or facility
        self._profile = profile
        self._is_dated_by_file = is_dated_by_file
        self._entity: EntityType = profile.entity
        self._cls = PAYLOADS[profile.entity]
        self._columns = {folded(each.column): each for each in profile.columns}
        self._record = record_of(self._cls, stated=True)
        self._leaves = {each.column: self._leaf(each) for each in profile.columns if each.field}
        self._always = _constants(profile, self._record)
        self._head = b""

    def head(self) -> bytes:
        """The header, as it stands in the file."""
        return self._head

    def entries(self, data: IO[bytes]) -> Iterator[Entry]:
        """See `Format`."""
        records = CsvRecords(Lines(data), self._profile.csv.delimiter, self._profile.csv.encoding)
        first = next(records, None)
        if first is None:
            raise Unreadable("", "the file has a header and rows", "write the names of the columns in the first line")
        header = _header(first)
        self._head = first.raw
        read = self._reader(self._places(header))
        for number, record in enumerate(records, start=1):
            cells = record.cells
            said: object = cells if isinstance(cells, Bad) else _width(cells, len(header)) or read(cells)
            yield Entry(number, record.line, record.raw, said)

    def check(self, entry: Entry, origin: Origin) -> Bad | None:
        """See `Format`."""
        return entry.said if isinstance(entry.said, Bad) else None

    def events(self, entry: Entry, origin: Origin) -> tuple[Event, ...] | Bad:
        """See `Format`."""
        said = entry.said
        if not isinstance(said, Said):
            assert isinstance(said, Bad)
            return said
        namespace = self._profile.namespace or said.facility
        key = EntityKey(origin.tenant, self._entity.value, namespace, said.entity_id)
        identity = origin.identity(entry.number, is_dated=self._is_dated_by_file)
        event = Event(
            event_id=derive_event_id(origin.tenant, origin.source_system, identity, key, 0),
            tenant=origin.tenant,
            facility=said.facility,
            source_system=origin.source_system,
            feed=self._profile.feed,
            entity_type=self._entity,
            namespace=namespace,
            entity_id=said.entity_id,
            event_type=self._profile.event_type,
            sequence_basis=SequenceBasis.RECORDED_TIME,
            recorded_at=origin.created_at,
            received_at=origin.received_at,
            audit_context=origin.context(entry.number),
            payload=said.payload,
        )
        return (sealed(event),)

    def _leaf(self, column: Column) -> _Leaf:
        top, _, part = (column.field or "").partition(".")
        shape = _shape_at(self._record, top, part)
        return _Leaf(column.column, part, converter_of(column, shape, self._profile), column.empty == "cleared")

    def _places(self, header: Sequence[str]) -> dict[str, int]:
        """Where each column of the profile stands. A column that is missing, twice there or unknown makes no row readable."""
        found: dict[str, int] = {}
        for place, name in enumerate(header):
            column = self._columns.get(folded(name))
            if column is None:
                if self._profile.csv.unknown_columns == "refuse":
                    raise Unreadable(
                        f"column {place + 1}", "the profile names each column", "remove it, or add it to the profile"
                    )
            elif column.column in found:
                raise Unreadable(column.column, "each column is there once", "remove one of them")
            else:
                found[column.column] = place
        for each in self._profile.columns:
            if each.column not in found and not each.optional:
                raise Unreadable(each.column, "each column of the profile is there", "add it, or check the delimiter and header")
        return found

    def _reader(self, places: Mapping[str, int]) -> Callable[[Sequence[str]], Said | Bad]:
        profile = self._profile
        id_places = [places[name] for name in profile.id_columns]
        facility_place = places.get(profile.facility_column) if profile.facility_column else None
        fields = self._fields(places)
        required = [(each.column, places[each.column]) for each in profile.columns if each.required and each.column in places]
        nothing = frozenset({_NO_CELL, *profile.csv.nothing})
        cls, site = self._cls, self._facility
        id_name = "+".join(profile.id_columns)

        def read(cells: Sequence[str]) -> Said | Bad:
            cells = [cell.strip() for cell in cells]
            for name, place in required:
                if cells[place] in nothing:
                    return Bad(name, "the cell is required", "fill it in")
            stated: dict[str, Any] = {}
            name = id_name
            try:
                entity_id = _joined([cells[place] for place in id_places])
                facility = site
                if facility_place is not None and cells[facility_place] not in nothing:
                    name = profile.facility_column or ""
                    facility = _CODE.read(cells[facility_place])
                for name, take in fields:
                    value = take(cells, nothing, facility)
                    if value is not UNSET:
                        stated[name] = value
            except Refused as refused:
                return Bad(_column_of(refused, name), refused.rule.doc, refused.remedy)
            if not stated:
                return Bad(None, Rule.NO_FIELDS.doc, "leave out a row that says nothing")
            return Said(entity_id, facility, cls(**stated))

        return read

    def _fields(self, places: Mapping[str, int]) -> "list[tuple[str, _Take]]":
        """For each field that columns state, what takes it out of a row."""
        by_field: dict[str, list[_Leaf]] = {}
        for each in self._profile.columns:
            if each.field and each.column in places:
                by_field.setdefault(each.field.partition(".")[0], []).append(self._leaves[each.column])
        found: list[tuple[str, _Take]] = []
        for name, leaves in by_field.items():
            if leaves[0].name == "":
                found.append((name, _single(leaves[0], places[leaves[0].column])))
            else:
                shape = self._record.members[name].shape
                assert isinstance(shape, Record)
                found.append((name, _composite(shape, leaves, places, self._always.get(name, {}))))
        return found


_Take = Callable[[Sequence[str], frozenset[str], str], object]
"""From the cells of a row, the words for an empty one, and the row's site to a field's value; UNSET where it says nothing."""


def _single(leaf: _Leaf, place: int) -> _Take:
    read, cleared, column = leaf.read, leaf.cleared, leaf.column

    def take(cells: Sequence[str], nothing: frozenset[str], facility: str) -> object:
        cell = cells[place]
        if cell in nothing:
            return None if cleared else UNSET
        try:
            return read(cell)
        except SaysNothing:
            return UNSET
        except Refused as refused:
            refused.path.append(column)
            raise

    return take


def _composite(shape: Record, leaves: Sequence[_Leaf], places: Mapping[str, int], always: Mapping[str, object]) -> _Take:
    """A field of several parts, stated where any of its columns says something; replaced as a whole (see `Event`)."""
    parts = [(leaf.name, _single(leaf, places[leaf.column])) for leaf in leaves]
    cleared = all(leaf.cleared for leaf in leaves)
    flat = all("." not in leaf.name for leaf in leaves) and not any("." in name for name in always)

    def take(cells: Sequence[str], nothing: frozenset[str], facility: str) -> object:
        said: dict[str, Any] = {}
        for name, part in parts:
            value = part(cells, nothing, facility)
            if value is not UNSET and value is not None:
                said[name] = value
        if not said:
            return None if cleared else UNSET
        constant = {name: facility if value == FACILITY else value for name, value in always.items()}
        return _built(shape, {**constant, **said}) if flat else _deep(shape, said, constant)

    return take


def _built(shape: Record, said: Mapping[str, Any]) -> msgspec.Struct:
    for name, member in shape.members.items():
        if member.required and name not in said:
            raise Refused(Rule.REQUIRED, f"fill in the column that states its {name}")
    return shape.cls(**said)


def _deep(shape: Record, said: Mapping[str, Any], always: Mapping[str, object]) -> msgspec.Struct:
    """Parts of parts, e.g. encounter.id of an occupancy. A constant counts only beside something that a column says."""
    tops: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in said.items():
        top, _, rest = name.partition(".")
        if rest:
            inner.setdefault(top, {})[rest] = value
        else:
            tops[top] = value
    for name, value in always.items():
        top, _, rest = name.partition(".")
        if rest and top in inner:
            inner[top].setdefault(rest, value)
        elif not rest:
            tops.setdefault(top, value)
    for top, parts in inner.items():
        member = shape.members[top].shape
        assert isinstance(member, Record)
        tops[top] = _built(member, parts)
    return _built(shape, tops)


def _constants(profile: FileProfile, record: Record) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for path, text in profile.always.items():
        top, _, part = path.partition(".")
        shape = _shape_at(record, top, part)
        found.setdefault(top, {})[part] = shape.read(text)
    return found


def _shape_at(record: Record, top: str, part: str) -> Any:
    """Shape of a field or of its part; `BadProfile` where there is none."""
    shape: Any = record
    for name in (top, *part.split(".")) if part else (top,):
        if not isinstance(shape, Record) or name not in shape.members:
            raise BadProfile(f"{top}{'.' if part else ''}{part}: {record.cls.__name__.lower()} has no such field")
        shape = shape.members[name].shape
    if isinstance(shape, Record):
        raise BadProfile(f"{top}: name its parts, e.g. {top}.{next(iter(shape.members))}")
    return shape


def _joined(parts: Sequence[str]) -> str:
    """Ids as HL7 v2 names a bed: unit/room/bed, with `%` and `/` inside a part percent-encoded; the innermost is there."""
    if len(parts) == 1:
        return _ID.read(parts[0])
    if not parts[-1]:
        raise Refused(Rule.REQUIRED, "fill in the columns that name it")
    return _ID.read("/".join(part.replace("%", "%25").replace("/", "%2F") for part in parts))


def _column_of(refused: Refused, otherwise: str) -> str:
    return refused.path[-1] if refused.path else otherwise


def _width(cells: Sequence[str], columns: int) -> Bad | None:
    if len(cells) == columns:
        return None
    if len(cells) > columns and not any(cells[columns:]):
        return None
    return Bad(None, "a row has as many cells as the header", "check delimiters and quotes of this row")


def _header(record: CsvRecord) -> list[str]:
    if isinstance(record.cells, Bad):
        raise Unreadable("", record.cells.rule, record.cells.remedy)
    header = list(record.cells)
    while header and not header[-1].strip():
        header.pop()
    return header
