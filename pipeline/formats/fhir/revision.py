"""The mark that a resource of ours carries: our revision, the state's hash, and a short keyed digest per written field.

It travels in an extension and not in a tag: servers carry tags forward from version to version, whoever writes. With the
digests one can say which fields somebody else changed since, without a look-up in any history (rule 9).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipeline.domain.identifiers import MAX_EPOCH, NO_REVISION, OFFSET_MASK, Revision, revision_of, show_revision
from pipeline.formats.fhir.codec import canonical
from pipeline.formats.fhir.owned import Body, Json, Misshapen, elements
from pipeline.formats.fhir.terms import REVISION

DIGEST_BYTES: Final = 8
_REVISION_TEXT: Final = re.compile(r"([1-9][0-9]{0,2})\.(0|[1-9][0-9]{0,13})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mark:
    """What a resource says of its last write by us. `digests` is (field, hexadecimal digits), in order of field."""

    revision: Revision
    state_hash: str
    digests: tuple[tuple[str, str], ...]


def mark_of(revision: Revision, state_hash: str, written: Mapping[str, Json], key: bytes) -> Mark:
    """Mark of a write of `written`, the fields as the resource shows them after it."""
    digests = tuple((field, _digest(key, revision, state_hash, field, written[field])) for field in sorted(written))
    return Mark(revision, state_hash, digests)


def mark_extension(mark: Mark) -> Body:
    """The mark as a FHIR extension. The revision is text, `epoch.offset`: FHIR's integer ends at 2**31."""
    parts = [
        {"url": "revision", "valueString": show_revision(mark.revision)},
        {"url": "stateHash", "valueString": mark.state_hash},
    ]
    parts += [{"url": "digest", "valueString": f"{field}={digits}"} for field, digits in mark.digests]
    return {"url": REVISION, "extension": parts}


def read_mark(body: Body) -> Mark | None:
    """The mark of a resource; None where it has none, two, or one that isn't whole: then its revision is unknown, not zero."""
    marks = [extension for extension in elements(body, "extension") if _is_mark(extension)]
    if len(marks) != 1:
        return None
    parts: dict[str, list[str]] = {"revision": [], "stateHash": [], "digest": []}
    for part in elements(marks[0], "extension"):
        url, text = part.get("url"), part.get("valueString")
        if url in parts and isinstance(text, str):
            parts[url].append(text)
    revision = _parse_revision(parts["revision"])
    if revision == NO_REVISION or len(parts["stateHash"]) != 1:
        return None
    digests = sorted((field, digits) for field, _, digits in (text.partition("=") for text in parts["digest"]))
    return Mark(revision, parts["stateHash"][0], tuple(digests))


def with_mark(body: Body, mark: Mark) -> Body:
    """`body` with this mark and no other: a second one, however it came there, would make the revision unknown for good."""
    extensions = body.get("extension", [])
    if not isinstance(extensions, list):
        raise Misshapen("extension is not a list")
    places = [index for index, extension in enumerate(extensions) if _is_mark(extension)]
    kept = [extension for index, extension in enumerate(extensions) if index not in places[1:]]
    if places:
        kept[places[0]] = mark_extension(mark)
    else:
        kept.append(mark_extension(mark))
    return {**body, "extension": kept}


def changed_fields_at_ehr(body: Body, shown: Mapping[str, Json], key: bytes) -> tuple[str, ...] | None:
    """Fields that no longer show what we wrote at the revision which `body` carries; None where it carries none.

    `shown` is `ResourceMap.shown` of the same body. Our own write, read back, has none: an echo is told from an edit.
    """
    mark = read_mark(body)
    if mark is None:
        return None
    return tuple(
        field for field, digits in mark.digests if _digest(key, mark.revision, mark.state_hash, field, shown.get(field)) != digits
    )


def _digest(key: bytes, revision: Revision, state_hash: str, field: str, value: Json) -> str:
    # Revision and state make equal values of two people look different, so that digests can't be compared between resources.
    text = canonical([show_revision(revision), state_hash, field, value])
    return hashlib.blake2b(text, key=key, digest_size=DIGEST_BYTES, person=b"surgeline-field").hexdigest()


def _is_mark(extension: Json) -> bool:
    return isinstance(extension, dict) and extension.get("url") == REVISION


def _parse_revision(texts: list[str]) -> Revision:
    match = _REVISION_TEXT.fullmatch(texts[0]) if len(texts) == 1 else None
    if match is None:
        return NO_REVISION
    epoch, offset = int(match[1]), int(match[2])
    return revision_of(epoch, offset) if epoch <= MAX_EPOCH and offset <= OFFSET_MASK else NO_REVISION
