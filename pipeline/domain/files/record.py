"""What is kept and told of a managed file: where it stands and why, its entry in the ledger, the rules in words. Pure."""

from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from pipeline.domain.event import Described, Redacted, Time


class FileStatus(Described):
    """Where a file stands."""

    AWAITED = "AWAITED", "something of it is there and something is not, for longer than it should be"
    LANDING = "LANDING", "it was found true; its rows are being landed"
    HELD = "HELD", "found true, but too many rows are broken: nothing of it is landed until an operator releases it"
    TAKEN = "TAKEN", "every row is durable: landed, or in quarantine with its reason"
    REPEATED = "REPEATED", "what it holds was taken before, under another name; nothing of it was landed"
    REFUSED = "REFUSED", "nothing of it was landed"


class FileReason(Described):
    """Why a file stands where it does; bounded, because it is a metric label."""

    NONE = "NONE", "no further reason"
    NO_MANIFEST = "NO_MANIFEST", "the file is there, its manifest is not"
    NO_SIGNATURE = "NO_SIGNATURE", "the manifest is there, its signature is not"
    NO_DATA = "NO_DATA", "the manifest announces a file that is not there"
    PARTIAL = "PARTIAL", "the file is shorter than its manifest says"
    EARLY = "EARLY", "it came before the time at which it was expected; it is taken then"
    LATE = "LATE", "it came after the time at which it was expected"
    WRONG_COUNT = "WRONG_COUNT", "it holds another number of records than its manifest says"
    WRONG_SUM = "WRONG_SUM", "its content is not that of which its manifest speaks"
    BAD_MANIFEST = "BAD_MANIFEST", "the manifest can't be read, or is another file's"
    BAD_SIGNATURE = "BAD_SIGNATURE", "the signature does not prove who wrote the manifest"
    UNKNOWN_KEY = "UNKNOWN_KEY", "the manifest is signed with a key that the sender did not give us"
    UNKNOWN_SOURCE = "UNKNOWN_SOURCE", "the sender may not speak for this source system"
    UNKNOWN_SCHEMA = "UNKNOWN_SCHEMA", "the file's name stands for rows of another kind or version"
    UNKNOWN_NAME = "UNKNOWN_NAME", "no profile of the sender has files of this name"
    NOT_A_FILE = "NOT_A_FILE", "it is a link, a folder or a device, or has a second name"
    TOO_LARGE = "TOO_LARGE", "it is larger than a file of this profile may be"
    FUTURE_TIME = "FUTURE_TIME", "it was made in the future: the sender's clock is wrong"
    SAME_CONTENT = "SAME_CONTENT", "the same content was taken under another name"
    OTHER_CONTENT = "OTHER_CONTENT", "other content was taken under the same name"
    UNREADABLE = "UNREADABLE", "it is not in the form that its profile says"
    TOO_MANY_REJECTS = "TOO_MANY_REJECTS", "a greater part of its rows is broken than the profile allows"
    GONE = "GONE", "its sender took it away while its rows were being landed, and our copy is lost"
    KEY_EXPIRED = "KEY_EXPIRED", "the manifest is signed with a key that was past its time when the signature came"


class FileState(Redacted, frozen=True, kw_only=True):
    """One file in the ledger, topic `files`: what it is, where it stands, how far its rows are."""

    tenant: Annotated[str, Meta(description="organisation")]
    partner: Annotated[str, Meta(description="who sent it, a name of the settings")]
    file_id: Annotated[str, Meta(description="digest of tenant, partner, name digest and content; 32 hexadecimal digits")]
    name: Annotated[str, Meta(description="name by the profile's pattern, which has no room for a patient; else empty")]
    name_digest: Annotated[str, Meta(description="keyed digest of the name")]
    profile: Annotated[str, Meta(description="profile that reads it; empty where its name fits none")]
    status: Annotated[FileStatus, Meta(description="where it stands")]
    why: Annotated[FileReason, Meta(description="why it stands there")] = FileReason.NONE
    late: Annotated[bool, Meta(description="it came after the time at which it was expected")] = False
    field: Annotated[str, Meta(description="REFUSED: member of the manifest, or column, at fault")] = ""
    rule: Annotated[str, Meta(description="REFUSED: the rule that it breaks")] = ""
    remedy: Annotated[str, Meta(description="REFUSED: what its sender can do")] = ""
    sha256: Annotated[str, Meta(description="SHA-256 of its content, as its manifest says; empty without one")] = ""
    size: Annotated[int, Meta(description="bytes of its content")] = 0
    records: Annotated[int, Meta(description="records that it holds")] = 0
    source_system: Annotated[str, Meta(description="system that says what it says")] = ""
    schema: Annotated[str, Meta(description="what its rows mean")] = ""
    key_id: Annotated[str, Meta(description="key that its manifest was signed with")] = ""
    created_at: Annotated[Time | None, Meta(description="when its content was true")] = None
    rows_done: Annotated[int, Meta(description="rows from the start that are durable")] = 0
    landed: Annotated[int, Meta(description="rows of these that made events, or that a rule ignores")] = 0
    rejected: Annotated[int, Meta(description="rows of these that are in quarantine")] = 0
    corrected: Annotated[tuple[int, ...], Meta(description="rejected rows, by number, that were landed since, corrected")] = ()
    same_as: Annotated[str, Meta(description="REPEATED: file whose content it has")] = ""
    released_by: Annotated[str, Meta(description="HELD: who released it; it is landed then")] = ""
    since: Annotated[Time, Meta(description="when its newest part came")]
    begun_at: Annotated[Time | None, Meta(description="when the first of its rows was landed")] = None
    at: Annotated[Time, Meta(description="when this was written")]
    version: Annotated[int, Meta(description="rises with each record about this file")] = 1
    instance: Annotated[str, Meta(description="who wrote it")] = ""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A rule that is broken, in words; `field` and `rule` hold no value."""

    why: FileReason
    field: str
    rule: str
    remedy: str


_RULES: Final[dict[FileReason, tuple[str, str, str]]] = {
    FileReason.NO_MANIFEST: ("", "a file comes with NAME.manifest", "send the file again, with its manifest and signature"),
    FileReason.NO_SIGNATURE: ("", "a manifest comes with NAME.manifest.jws", "sign the manifest, and send all three"),
    FileReason.NO_DATA: (
        "",
        "the file that a manifest announces is there by the end of its window",
        "send it, or a new manifest",
    ),
    FileReason.PARTIAL: ("bytes", "the file has the length that its manifest says", "send it again, whole"),
    FileReason.LATE: ("expected", "the file comes within the window of its manifest", "send the content of today"),
    FileReason.WRONG_COUNT: (
        "records",
        "the file holds as many records as its manifest says",
        "count records without header and blanks",
    ),
    FileReason.WRONG_SUM: (
        "sha256",
        "the content has the SHA-256 that its manifest says",
        "send file and manifest of one content",
    ),
    FileReason.BAD_MANIFEST: ("file", "the manifest names the file beside it", "send each manifest beside its own file"),
    FileReason.UNKNOWN_SOURCE: ("source_system", "the sender may speak for the source system", "ask the operator to allow it"),
    FileReason.UNKNOWN_SCHEMA: (
        "schema",
        "the schema is that of the profile whose name the file bears",
        "name file and schema alike",
    ),
    FileReason.UNKNOWN_NAME: ("file", "the name is of the form that was agreed", "name it as its profile says"),
    FileReason.NOT_A_FILE: ("", "a file is a regular file with one name", "send the file itself"),
    FileReason.TOO_LARGE: ("bytes", "the file is no larger than was agreed", "send several files"),
    FileReason.FUTURE_TIME: ("created_at", "a file is not made in the future", "set the clock of the machine that makes it"),
    FileReason.OTHER_CONTENT: ("file", "each content has a name of its own", "send it under a new name"),
    FileReason.KEY_EXPIRED: ("key_id", "a key is used within its time", "sign it with your present key, and send it again"),
    FileReason.GONE: ("", "a file stays where it is until it is acknowledged", "send it again"),
}


def flaw_of(why: FileReason) -> Flaw:
    """What a file breaks that has this reason."""
    return Flaw(why, *_RULES[why])
