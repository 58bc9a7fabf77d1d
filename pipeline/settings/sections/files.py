"""Settings of managed files, in and out, and of the boards for downtime."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from pipeline.settings.sections.base import Count, File, Name, Seconds, Section, Zone, _place

ValidUntil = Annotated[
    AwareDatetime | None, Field(description="until when it is taken; a metric says how long that is, afterwards it is refused")
]


class FileSigner(Section):
    """A key that a partner signs its manifests with. Several at once: one is brought in before another is given up."""

    key_id: Annotated[Name, Field(description="what a manifest calls it")]
    public_file: Annotated[File, Field(description="file with the public key, Ed25519, PEM")]


class PartnerSigner(FileSigner):
    """A key of a partner, for a time: what came by then counts, whenever we looked."""

    valid_until: ValidUntil = None


class FileKey(Section):
    """A key of ours that a partner encrypts its files to."""

    key_file: Annotated[File, Field(description="file with the age identity: age-keygen -o files.key")]


class SftpAccess(Section):
    """How an SFTP server is entered: by a key alone."""

    host_keys: Annotated[
        tuple[str, ...], Field(description="the server's public keys, as ssh-keyscan prints them without the host", min_length=1)
    ]
    key_file: Annotated[File, Field(description="file with our private key, as ssh-keygen writes it, without a pass phrase")]
    valid_until: ValidUntil = None


class ObjectAccess(Section):
    """How object storage is entered: S3, with credentials of this place alone."""

    endpoint: Annotated[str | None, Field(description="address of the service; AWS by its region if left out")] = None
    region: Annotated[str, Field(description="region", min_length=1, max_length=64)] = "us-east-1"
    access_key_id: Annotated[str, Field(description="id of the access key", min_length=1, max_length=128)]
    secret_key_file: Annotated[File, Field(description="file with the secret of the access key")]
    token_file: Annotated[File | None, Field(description="file with the session token, where the key is a temporary one")] = None
    valid_until: ValidUntil = None


class FilePlace(Section):
    """A place of files that belongs to one partner."""

    folder: Annotated[
        str, Field(description="a folder's path, sftp://USER@HOST:PORT/PATH or s3://BUCKET/PREFIX"), AfterValidator(_place)
    ]
    sftp: Annotated[SftpAccess | None, Field(description="how to enter it, where it is sftp://")] = None
    objects: Annotated[ObjectAccess | None, Field(description="how to enter it, where it is s3://")] = None

    @property
    def address(self) -> SplitResult | None:
        """Where it is; None of a folder of this machine."""
        return urlsplit(self.folder) if "://" in self.folder else None

    @property
    def path(self) -> Path | None:
        """The folder of this machine; None where it is elsewhere."""
        return None if "://" in self.folder else Path(self.folder)


class FilePartner(FilePlace):
    """One partner that sends files; of its folder only incoming/ need be writable to it."""

    tenant: Annotated[Name | None, Field(description="organisation of its events; tenant_default if left out")] = None
    facility: Annotated[str, Field(description="site, where neither row nor profile names one", min_length=1, max_length=64)]
    source_systems: Annotated[tuple[str, ...], Field(description="source systems that it may speak for", min_length=1)]
    profiles: Annotated[tuple[str, ...], Field(description="its kinds of files, names under profiles/files", min_length=1)]
    signers: Annotated[tuple[PartnerSigner, ...], Field(description="keys that its manifests are signed with", min_length=1)]
    decrypt_keys: Annotated[tuple[FileKey, ...], Field(description="keys of ours that it may encrypt to, old ones too")] = ()
    must_encrypt: Annotated[bool, Field(description="refuse a file that is not encrypted")] = False
    patience_s: Annotated[Seconds, Field(description="what waits longer for its other parts is told")] = 900.0
    give_up_s: Annotated[Seconds, Field(description="what waits longer is refused")] = 86_400.0


class FilesSettings(Section):
    """The way in of managed files."""

    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    data_dir: Annotated[File, Field(description="folder for copies of files in hand, on an encrypted disk")] = Path(
        ".surgeline/files"
    )
    poll_s: Annotated[float, Field(description="how often folders are looked at", ge=0.05, le=3_600)] = 1.0
    rows_per_s: Annotated[
        float, Field(description="most rows a second of one partner: they stand before live events in the same log", ge=1, le=1e6)
    ] = 2_000.0
    partners: Annotated[dict[Name, FilePartner], Field(description="partners by name")] = {}


class DowntimeWorkstation(Section):
    """One workstation that shows boards when everything else is down."""

    folder: Annotated[File, Field(description="folder that it reads, of its own")]
    tenant: Annotated[Name | None, Field(description="organisation; tenant_default if left out")] = None
    facility: Annotated[str, Field(description="site of its units", min_length=1, max_length=64)]
    units: Annotated[
        tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,40}$")], ...],
        Field(description="codes of the units whose boards it gets, and no others", min_length=1, max_length=200),
    ]
    recipients_file: Annotated[
        File | None,
        Field(description="file with its public keys, age, one a line; left out only in a demo: clear text"),
    ] = None
    time_zone: Zone = "UTC"


class DowntimeSettings(Section):
    """Bed boards and census for times when nothing else works."""

    every_s: Annotated[float, Field(description="time between two boards", ge=1, le=86_400)] = 900.0
    keep: Annotated[Count, Field(description="newest boards of each unit that stay", le=10_000)] = 8
    key_id: Annotated[Name, Field(description="what the key that signs boards is called")] = "boards"
    key_file: Annotated[
        File | None,
        Field(description="file with that private key: openssl genpkey -algorithm ed25519; boards are not signed if left out"),
    ] = None
    workstations: Annotated[dict[Name, DowntimeWorkstation], Field(description="workstations by name")] = {}


class FileReceiver(FilePlace):
    """One partner that files are sent to; of its folder only acks/ need be writable to it."""

    tenant: Annotated[Name | None, Field(description="organisation that the files are about; tenant_default if left out")] = None
    region: Annotated[Name | None, Field(description="region that it is in; needed once there are rules of tenants")] = None
    purpose: Annotated[Name | None, Field(description="what it gets data for; needed once there are rules of tenants")] = None
    facilities: Annotated[tuple[str, ...], Field(description="sites that it is told of", min_length=1, max_length=100)]
    sends: Annotated[
        tuple[Literal["capacity", "audit", "safr"], ...],
        Field(description="what it gets: capacity extract, audit export, SAFR bed capacity report", min_length=1),
    ]
    every_s: Annotated[float, Field(description="time between two files of a kind", ge=1, le=86_400)] = 900.0
    source_system: Annotated[Name, Field(description="our name in manifests")] = "surgeline"
    key_id: Annotated[Name, Field(description="what the receiver calls the key that signs our manifests")]
    key_file: Annotated[File, Field(description="file with that private key: openssl genpkey -algorithm ed25519")]
    recipients_file: Annotated[
        File | None, Field(description="file with its public keys, age, one a line; left out only in a demo: clear text")
    ] = None
    patience_s: Annotated[Seconds, Field(description="an acknowledgement that takes longer is told, and the file sent again")] = (
        3_600.0
    )
    max_sends: Annotated[
        Count, Field(description="a file that was sent so often is not sent again: it stays overdue", le=100)
    ] = 5


class FilesOutSettings(Section):
    """The way out of managed files."""

    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    data_dir: Annotated[File, Field(description="folder for files that are not acknowledged yet, encrypted as they are sent")] = (
        Path(".surgeline/files-out")
    )
    poll_s: Annotated[float, Field(description="how often acknowledgements are looked for", ge=0.05, le=3_600)] = 5.0
    receivers: Annotated[dict[Name, FileReceiver], Field(description="receivers by name")] = {}
