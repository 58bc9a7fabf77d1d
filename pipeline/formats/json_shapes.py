"""JSON and the domain's structures: each shape reads a JSON value, writes it again, and describes itself as JSON Schema.

Reader and schema come from the same object, so what the API's description promises is what the reader does. A refusal
names the place by JSON pointer (RFC 6901), the rule and the remedy; it never repeats a value.
"""

import functools
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import msgspec.inspect
from msgspec import UNSET

from pipeline.domain.event import Described
from pipeline.domain.identifiers import Millis
from pipeline.formats.json_members import Doubled
from pipeline.formats.rfc3339 import date_exists, millis_of, rfc3339_of

ID_MAX_CHARS: Final = 128
CODE_MAX_CHARS: Final = 64
TEXT_MAX_CHARS: Final = 256
ITEMS_MAX: Final = 32
"""Most elements of a list within one event, e.g. identifiers of a patient."""
SEQUENCE_MAX: Final = 2**53 - 1
"""Greatest integer that every JSON reader holds exactly (RFC 8259, 6)."""
NUMBER_MAX: Final = 100_000.0
NAME_SHOWN_CHARS: Final = 64
"""How much of an unknown member's name a refusal repeats."""

TEXT_PATTERN: Final = r"^[^\u0000-\u0020\u007f]([^\u0000-\u001f\u007f]*[^\u0000-\u0020\u007f])?$"
DATE_PATTERN: Final = r"^(1[89]|20)[0-9]{2}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?$"

_TEXT: Final = re.compile(r"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?")
_DATE: Final = re.compile(DATE_PATTERN[1:-1], re.ASCII)


class Rule(Described):
    """Why a JSON event is refused; bounded, because it is a metric label."""

    NOT_JSON = "not-json", "the body is JSON (RFC 8259) in UTF-8"
    REQUIRED = "required", "the member is required"
    UNKNOWN_FIELD = "unknown-field", "the member is not one of this object's"
    READ_ONLY = "read-only", "the pipeline sets this member itself"
    WRONG_TYPE = "wrong-type", "the value has another JSON type"
    NOT_ALLOWED = "not-allowed", "the value is not one of those allowed here"
    LENGTH = "length", "the text is empty or too long"
    CHARACTERS = "characters", "text has no control characters and no blanks at its ends"
    TIME = "time", "a time is RFC 3339 with its offset from UTC"
    DATE = "date", "a date is YYYY, YYYY-MM or YYYY-MM-DD and exists"
    RANGE = "range", "the number is out of range"
    COUNT = "count", "too few or too many elements"
    NO_FIELDS = "no-fields", "an event states at least one field"
    NO_SEQUENCE = "no-sequence", "an event ordered by the source's sequence carries it"
    REPEATED_KEY = "repeated-key", "each item of a batch has an idempotency key of its own"
    FOREIGN_TENANT = "foreign-tenant", "a client speaks for its own tenant only"
    FOREIGN_SOURCE = "foreign-source", "a client speaks for the source systems that are granted to it"
    OVERSIZE = "oversize", "the event is larger than a record may be"


FORBIDDEN: Final = frozenset({Rule.FOREIGN_TENANT, Rule.FOREIGN_SOURCE})


class Refused(Exception):
    """A value breaks a rule; `parse_event` makes a value of it. The path is collected innermost first while a reader unwinds."""

    def __init__(self, rule: Rule, remedy: str, *path: str) -> None:
        super().__init__(rule.value)
        self.rule = rule
        self.remedy = remedy
        self.path = list(path)

    @property
    def pointer(self) -> str:
        """JSON pointer of the value."""
        return pointer_of(reversed(self.path))


def refused_doubled(doubled: Doubled, known: Container[str]) -> Refused:
    """An object that names a member more than once: which one, if it is one of ours."""
    if doubled.name in known:
        return Refused(Rule.COUNT, "give this member once", doubled.name)
    return Refused(Rule.COUNT, "give each member of this object once")


def pointer_of(path: Iterable[str]) -> str:
    """JSON pointer (RFC 6901) of a path, outermost first."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in path)


class Shape(Protocol):
    """One kind of JSON value."""

    def read(self, value: object) -> object:
        """Domain value of a JSON value; raises `Refused`."""
        ...

    def write(self, value: Any) -> object:
        """JSON value of a domain value."""
        ...

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12)."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Text without control characters, bounded in length."""

    max_chars: int = TEXT_MAX_CHARS

    def read(self, value: object) -> str:
        if type(value) is not str:
            raise Refused(Rule.WRONG_TYPE, "give a string")
        if not 0 < len(value) <= self.max_chars:
            raise Refused(Rule.LENGTH, f"give 1 to {self.max_chars} characters; null or nothing where there is no value")
        if _TEXT.fullmatch(value) is None:
            raise Refused(Rule.CHARACTERS, "remove control characters, and blanks at the ends")
        return value

    def write(self, value: Any) -> object:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": self.max_chars, "pattern": TEXT_PATTERN}


@dataclass(frozen=True, slots=True)
class Time:
    """Milliseconds of the epoch, as RFC 3339 with an offset; a time without one is refused, finer digits are cut."""

    def read(self, value: object) -> Millis:
        if type(value) is not str:
            raise Refused(Rule.WRONG_TYPE, "give a string, e.g. 2026-01-31T08:00:00Z")
        millis = millis_of(value)
        if millis is None:
            raise Refused(Rule.TIME, "write it as 2026-01-31T08:00:00.000Z or 2026-01-31T09:00:00+01:00, with its offset")
        return millis

    def write(self, value: Any) -> object:
        return rfc3339_of(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class Date:
    """A calendar date, or its year or month alone."""

    def read(self, value: object) -> str:
        if type(value) is not str:
            raise Refused(Rule.WRONG_TYPE, "give a string, e.g. 1950-12-31")
        if _DATE.fullmatch(value) is None or not date_exists(value):
            raise Refused(Rule.DATE, "write YYYY, YYYY-MM or YYYY-MM-DD, from 1800 on")
        return value

    def write(self, value: Any) -> object:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": DATE_PATTERN}


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from 0 to 2**53 - 1."""

    def read(self, value: object) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise Refused(Rule.WRONG_TYPE, "give a whole number")
        if not 0 <= value <= SEQUENCE_MAX:
            raise Refused(Rule.RANGE, f"give 0 to {SEQUENCE_MAX}")
        return value

    def write(self, value: Any) -> object:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 0, "maximum": SEQUENCE_MAX}


@dataclass(frozen=True, slots=True)
class Number:
    """A number from 0 to 100,000."""

    def read(self, value: object) -> float:
        if type(value) is not float and type(value) is not int:
            raise Refused(Rule.WRONG_TYPE, "give a number")
        if not 0 <= value <= NUMBER_MAX:
            raise Refused(Rule.RANGE, f"give 0 to {NUMBER_MAX:.0f}")
        return float(value)

    def write(self, value: Any) -> object:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": NUMBER_MAX}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, value: object) -> bool:
        if type(value) is not bool:
            raise Refused(Rule.WRONG_TYPE, "give true or false")
        return value

    def write(self, value: Any) -> object:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """One of the symbols of an enum."""

    symbols: Mapping[str, Described]

    def read(self, value: object) -> Described:
        if type(value) is not str:
            raise Refused(Rule.WRONG_TYPE, "give a string")
        symbol = self.symbols.get(value)
        if symbol is None:
            raise Refused(Rule.NOT_ALLOWED, "give one of " + ", ".join(self.symbols))
        return symbol

    def write(self, value: Any) -> object:
        return str(value.value)

    def schema(self) -> dict[str, Any]:
        return {
            "type": "string",
            "enum": list(self.symbols),
            "description": "; ".join(f"{name}: {symbol.doc}" for name, symbol in self.symbols.items()),
        }


@dataclass(frozen=True, slots=True)
class Items:
    """A list, bounded in length."""

    item: Shape

    def read(self, value: object) -> tuple[object, ...]:
        if type(value) is not list:
            raise Refused(Rule.WRONG_TYPE, "give an array")
        if len(value) > ITEMS_MAX:
            raise Refused(Rule.COUNT, f"give at most {ITEMS_MAX} elements")
        return tuple(_read_at(str(index), self.item, element) for index, element in enumerate(value))

    def write(self, value: Any) -> object:
        return [self.item.write(element) for element in value]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": self.item.schema(), "maxItems": ITEMS_MAX}


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object. `keeps_null`: null says "cleared", so it is written; elsewhere it says no more than absence."""

    shape: Shape
    required: bool
    nullable: bool
    doc: str
    keeps_null: bool = False

    def schema(self) -> dict[str, Any]:
        own = self.shape.schema()
        doc = {"description": "; ".join(text for text in (self.doc, own.get("description")) if text)}
        return {"anyOf": [own, {"type": "null"}], **doc} if self.nullable else {**own, **doc}


@dataclass(frozen=True, slots=True)
class Record:
    """An object with known members; `stated` asks for at least one of them."""

    cls: type[msgspec.Struct]
    members: Mapping[str, Member]
    stated: bool = False

    def read(self, value: object) -> msgspec.Struct:
        members = self.read_members(value)
        if self.stated and not members:
            raise Refused(Rule.NO_FIELDS, "state at least one field, or send no event")
        return self.cls(**members)

    def read_members(self, value: object) -> dict[str, Any]:
        if type(value) is Doubled:
            raise refused_doubled(value, self.members)
        if type(value) is not dict:
            raise Refused(Rule.WRONG_TYPE, "give an object")
        members: dict[str, Any] = {}
        for name, content in value.items():
            member = self.members.get(name)
            if member is None:
                raise Refused(Rule.UNKNOWN_FIELD, "remove it, or correct its name", name[:NAME_SHOWN_CHARS])
            if content is None and member.nullable:
                members[name] = None
            else:
                members[name] = _read_at(name, member.shape, content)
        for name, member in self.members.items():
            if member.required and name not in members:
                raise Refused(Rule.REQUIRED, "add it: " + member.doc, name)
        return members

    def write(self, value: Any) -> dict[str, object]:
        written: dict[str, object] = {}
        for name, member in self.members.items():
            content = getattr(value, name)
            if content is UNSET or (content is None and not member.keeps_null):
                continue
            written[name] = None if content is None else member.shape.write(content)
        return written

    def schema(self) -> dict[str, Any]:
        return {"$ref": f"#/components/schemas/{self.cls.__name__}"}

    def definition(self) -> dict[str, Any]:
        """The object's own schema, to which `schema` refers."""
        return {
            "type": "object",
            "description": (self.cls.__doc__ or "").strip().partition("\n")[0],
            "properties": {name: member.schema() for name, member in self.members.items()},
            "required": [name for name, member in self.members.items() if member.required],
            "additionalProperties": False,
            **({"minProperties": 1} if self.stated else {}),
        }


def _read_at(name: str, shape: Shape, value: object) -> object:
    try:
        return shape.read(value)
    except Refused as refused:
        refused.path.append(name)
        raise


SPECIAL: Final[Mapping[str, Shape]] = {
    "birth_date": Date(),
    "id": Text(ID_MAX_CHARS),
    "value": Text(ID_MAX_CHARS),
    "namespace": Text(ID_MAX_CHARS),
    "system": Text(ID_MAX_CHARS),
}
"""Fields whose JSON is narrower than their Python type, by name."""


@functools.cache
def record_of(cls: type[msgspec.Struct], stated: bool = False) -> Record:
    """Shape of a structure, from its annotations. `stated`: at least one member, and null is kept (a payload)."""
    info = msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    return Record(cls, {field.name: member_of(field, keeps_null=stated) for field in info.fields}, stated)


def member_of(field: msgspec.inspect.Field, keeps_null: bool = False) -> Member:
    """Shape of one field with what the structure says of it."""
    doc = ""
    if isinstance(field.type, msgspec.inspect.Metadata):
        doc = str((field.type.extra_json_schema or {}).get("description", ""))
    shape, nullable = _shape_of(field.type)
    if field.name in SPECIAL and isinstance(shape, Text):
        shape = SPECIAL[field.name]
    return Member(shape, field.required, nullable, doc, keeps_null)


def _shape_of(kind: msgspec.inspect.Type) -> tuple[Shape, bool]:
    match kind:
        case msgspec.inspect.Metadata(type=inner, extra=extra):
            return (Time(), False) if extra and extra.get("time") else _shape_of(inner)
        case msgspec.inspect.UnionType(types=(inner, msgspec.inspect.NoneType())):
            return _shape_of(inner)[0], True
        case msgspec.inspect.StrType():
            return Text(), False
        case msgspec.inspect.IntType():
            return Integer(), False
        case msgspec.inspect.FloatType():
            return Number(), False
        case msgspec.inspect.BoolType():
            return Flag(), False
        case msgspec.inspect.EnumType(cls=cls):
            return Symbol({symbol.value: symbol for symbol in cast(type[Described], cls)}), False
        case msgspec.inspect.VarTupleType(item_type=item):
            return Items(_shape_of(item)[0]), False
        case msgspec.inspect.StructType(cls=cls):
            return record_of(cls), False
    raise TypeError(f"no JSON shape for {type(kind).__name__}")
