"""Literal references and the names of resources: `Type/id`."""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.formats.fhir.owned import Json

MAX_REFERENCE_CHARS: Final = 1024


def reference_of(text: Json) -> str | None:
    """`Type/id` of a literal reference, absolute or relative, with or without a version; None for anything else."""
    if not isinstance(text, str) or len(text) > MAX_REFERENCE_CHARS:
        return None
    parts = text.split("?", 1)[0].split("/")
    if len(parts) >= 4 and parts[-2] == "_history":
        parts = parts[:-2]
    if len(parts) < 2 or not is_type(parts[-2]) or not is_id(parts[-1]):
        return None
    return f"{parts[-2]}/{parts[-1]}"


def own_name(resource: Mapping[str, Any]) -> str | None:
    """`Type/id` of a resource; None where it does not tell both."""
    kind, own = resource.get("resourceType"), resource.get("id")
    named = isinstance(kind, str) and isinstance(own, str) and is_type(kind) and is_id(own)
    return f"{kind}/{own}" if named else None


def is_type(text: str) -> bool:
    """Whether this could be the name of a resource type."""
    return text.isascii() and text.isalpha() and text[:1].isupper() and len(text) <= 64


def is_id(text: str) -> bool:
    """FHIR id: 1 to 64 letters, digits, `-` and `.`."""
    return 0 < len(text) <= 64 and text.isascii() and all(character.isalnum() or character in "-." for character in text)
