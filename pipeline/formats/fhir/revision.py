"""The mark that a resource of ours carries: our revision, the state's hash, and a short keyed digest per written field.

It travels in an extension: servers carry tags forward from version to version, whoever writes. With the digests one can say
which fields somebody else changed since, without a look-up in any history. Where a profile asks for a tag all the same there
is room for one digest only, of all fields together; and where it allows neither, a resource carries no mark.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pipeline.domain.identifiers import MAX_EPOCH, NO_REVISION, OFFSET_MASK, Revision, revision_of, show_revision
from pipeline.formats.fhir.codec import canonical
from pipeline.formats.fhir.owned import Body, Json, Misshapen, dotted_value, elements
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.fhir.terms import REVISION, REVISION_NAME

DIGEST_BYTES: Final = 8
ALL_FIELDS: Final = "*"
"""In place of a field's name: a digest of all of them together."""

_TAG: Final = re.compile(r"([0-9.]{1,20})/([0-9a-f]{1,64})/([0-9a-f]{1,64})", re.ASCII)
_REVISION_TEXT: Final = re.compile(r"([1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,13})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a resource says of its last write by us. `digests` is (field, hexadecimal digits), in order of field."""

    revision: Revision
    state_hash: str
    digests: tuple[tuple[str, str], ...]

    def written(self, shown: Mapping[str, Json]) -> frozenset[str]:
        """Fields that it speaks of, out of those that a resource shows."""
        named = {field for field, _ in self.digests}
        return frozenset(shown) if ALL_FIELDS in named else frozenset(named)


@dataclass(frozen=True, slots=True)
class Carrier:
    """Where the mark travels at one EHR: in an extension of this URL, in a tag of this system, or nowhere."""

    kind: Literal["extension", "tag", "none"] = "extension"
    url: str = REVISION

    def read(self, body: Body) -> Mark | None:
        """The mark of a resource; None where it has none, two extensions, or one that isn't whole: then its revision is
        unknown, not zero. Of several tags the highest counts, because a server that carries tags forward keeps them all."""
        if self.kind == "tag":
            found = [mark for tag in self._tags(body) if (mark := _parse_tag(tag.get("code"))) is not None]
            return max(found, key=lambda mark: mark.revision, default=None)
        return _read_extension(body, self.url) if self.kind == "extension" else None

    def put(self, body: Body, mark: Mark) -> Body:
        """`body` with this mark and no other: a second one, however it came there, would make the revision unknown for good."""
        if self.kind == "tag":
            return self._tagged(body, mark)
        return _extended(body, mark, self.url) if self.kind == "extension" else body

    def mark(
        self, revision: Revision, state_hash: str, written: Mapping[str, Json], shown: Mapping[str, Json], key: bytes
    ) -> Mark:
        """Mark of a write of `written`, in a resource that then shows `shown`."""
        if self.kind == "tag":
            return Mark(revision, state_hash, ((ALL_FIELDS, _digest(key, revision, state_hash, ALL_FIELDS, dict(shown))),))
        return mark_of(revision, state_hash, written, key)

    def _tags(self, body: Body) -> list[Body]:
        tags = dotted_value(body, "meta.tag")
        return [tag for tag in elements({"tag": tags}, "tag") if tag.get("system") == self.url]

    def _tagged(self, body: Body, mark: Mark) -> Body:
        meta = body.get("meta", {})
        tags = meta.get("tag", []) if isinstance(meta, dict) else None
        if not isinstance(tags, list):
            raise Misshapen("meta.tag is not a list")
        others = [tag for tag in tags if not (isinstance(tag, dict) and tag.get("system") == self.url)]
        told = f"{show_revision(mark.revision)}/{mark.state_hash}/{mark.digests[0][1]}"
        return {**body, "meta": {**meta, "tag": [*others, {"system": self.url, "code": told}]}}


IN_EXTENSION: Final = Carrier()


def carrier_of(profile: Profile) -> Carrier:
    """Where the mark travels at this EHR."""
    return Carrier(profile.revision, profile.extension(REVISION_NAME))


def mark_of(revision: Revision, state_hash: str, written: Mapping[str, Json], key: bytes) -> Mark:
    """Mark of a write of `written`, the fields as the resource shows them after it."""
    digests = tuple((field, _digest(key, revision, state_hash, field, written[field])) for field in sorted(written))
    return Mark(revision, state_hash, digests)


def mark_extension(mark: Mark, url: str = REVISION) -> Body:
    """The mark as a FHIR extension. The revision is text, `epoch.offset`: FHIR's integer ends at 2**31."""
    parts = [
        {"url": "revision", "valueString": show_revision(mark.revision)},
        {"url": "stateHash", "valueString": mark.state_hash},
    ]
    parts += [{"url": "digest", "valueString": f"{field}={digits}"} for field, digits in mark.digests]
    return {"url": url, "extension": parts}


def read_mark(body: Body) -> Mark | None:
    """The mark of a resource in our own extension; see `Carrier.read`."""
    return IN_EXTENSION.read(body)


def _read_extension(body: Body, url: str) -> Mark | None:
    marks = [extension for extension in elements(body, "extension") if extension.get("url") == url]
    if len(marks) != 1:
        return None
    parts: dict[str, list[str]] = {"revision": [], "stateHash": [], "digest": []}
    for part in elements(marks[0], "extension"):
        name, text = part.get("url"), part.get("valueString")
        if isinstance(name, str) and name in parts and isinstance(text, str):
            parts[name].append(text)
    revision = _parse_revision(parts["revision"])
    if revision == NO_REVISION or len(parts["stateHash"]) != 1:
        return None
    digests = sorted((field, digits) for field, _, digits in (text.partition("=") for text in parts["digest"]))
    return Mark(revision, parts["stateHash"][0], tuple(digests))


def _extended(body: Body, mark: Mark, url: str) -> Body:
    extensions = body.get("extension", [])
    if not isinstance(extensions, list):
        raise Misshapen("extension is not a list")
    places = [index for index, extension in enumerate(extensions) if _is_mark(extension, url)]
    kept = [extension for index, extension in enumerate(extensions) if index not in places[1:]]
    if places:
        kept[places[0]] = mark_extension(mark, url)
    else:
        kept.append(mark_extension(mark, url))
    return {**body, "extension": kept}


def changed_fields_at_ehr(
    body: Body, shown: Mapping[str, Json], key: bytes, carrier: Carrier = IN_EXTENSION
) -> tuple[str, ...] | None:
    """Fields that no longer show what we wrote at the revision which `body` carries; None where it carries none.

    `shown` is `ResourceMap.shown` of the same body. Our own write, read back, has none: an echo is told from an edit. A tag
    tells that there was an edit and not of what: then any of the fields may have changed, and all of them are named.
    """
    mark = carrier.read(body)
    return None if mark is None else tuple(sorted(field for field in mark.written(shown) if not is_ours(mark, field, shown, key)))


def is_ours(mark: Mark, field: str, shown: Mapping[str, Json], key: bytes) -> bool:
    """Whether a field shows what we wrote at the mark's revision."""
    digests = dict(mark.digests)
    if (whole := digests.get(ALL_FIELDS)) is not None:
        return whole == _digest(key, mark.revision, mark.state_hash, ALL_FIELDS, dict(shown))
    return digests.get(field) == _digest(key, mark.revision, mark.state_hash, field, shown.get(field))


def _digest(key: bytes, revision: Revision, state_hash: str, field: str, value: Json) -> str:
    # Revision and state make equal values of two people look different, so that digests can't be compared between resources.
    text = canonical([show_revision(revision), state_hash, field, value])
    return hashlib.blake2b(text, key=key, digest_size=DIGEST_BYTES, person=b"surgeline-field").hexdigest()


def _is_mark(extension: Json, url: str) -> bool:
    return isinstance(extension, dict) and extension.get("url") == url


def _parse_tag(code: Json) -> Mark | None:
    match = _TAG.fullmatch(code) if isinstance(code, str) else None
    revision = _parse_revision([match[1]]) if match else NO_REVISION
    return Mark(revision, match[2], ((ALL_FIELDS, match[3]),)) if match and revision != NO_REVISION else None


def _parse_revision(texts: list[str]) -> Revision:
    match = _REVISION_TEXT.fullmatch(texts[0]) if len(texts) == 1 else None
    if match is None:
        return NO_REVISION
    epoch, offset = int(match[1]), int(match[2])
    return revision_of(epoch, offset) if epoch <= MAX_EPOCH and offset <= OFFSET_MASK else NO_REVISION
