"""Who sends files: what they are called, what their rows mean, and what proves that they come from there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from joserfc.jwk import OKPKey

from pipeline.domain.files.life import DEFAULT_WAITS, FileState, Rules, Waits
from pipeline.domain.identifiers import Millis
from pipeline.formats.files.profile import DATED_BY_MANIFEST, FileProfile, bears
from pipeline.formats.files.rows import Format, Origin
from pipeline.sources.files.folder import ENCRYPTED, Decrypt


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file: a profile by name, and what makes a reader for one file of it."""

    name: str
    profile: FileProfile
    reader: Callable[[], Format]


@dataclass(frozen=True, slots=True)
class Partner:
    """One sender. `keys` and `decrypt` are asked each time, so that keys can be replaced while it runs."""

    name: str
    tenant: str
    sources: frozenset[str]
    kinds: Sequence[Kind]
    keys: Callable[[], Mapping[str, OKPKey]]
    decrypt: Decrypt
    digest: Callable[[str], str]
    """Keyed digest of a file's name, which may be one that must not be shown."""
    waits: Waits = DEFAULT_WAITS
    must_encrypt: bool = False
    valid_until: Mapping[str, Millis] = field(default_factory=dict)
    """Keys that are taken for a time only, by id: what is signed with one counts if its signature came by then."""

    def kind_of(self, name: str) -> Kind | None:
        """The kind that a file's name stands for; None where it stands for none, or should be encrypted and is not."""
        if self.must_encrypt and not name.endswith(ENCRYPTED):
            return None
        return next((kind for kind in self.kinds if bears(kind.profile, name.removesuffix(ENCRYPTED))), None)

    def named(self, kind: str) -> Kind | None:
        """A kind by its name."""
        return next((each for each in self.kinds if each.name == kind), None)

    def rules(self, kind: Kind | None, name: str) -> Rules:
        """What holds for a file of this name."""
        profile = kind.profile if kind is not None else None
        return Rules(
            sources=self.sources,
            schema=profile.schema if profile is not None else None,
            is_encrypted=name.endswith(ENCRYPTED),
            is_dated_by_manifest=profile is not None and profile.format in DATED_BY_MANIFEST,
            late=profile.late if profile is not None else "take",
            waits=self.waits,
            max_bytes=profile.max_bytes if profile is not None else 0,
            max_rejected=profile.max_rejected if profile is not None else 0,
        )


def origin_of(state: FileState, now: Millis) -> Origin:
    """What all rows of a file have in common."""
    return Origin(state.tenant, state.source_system, state.sha256, Millis(state.created_at or 0), now)
