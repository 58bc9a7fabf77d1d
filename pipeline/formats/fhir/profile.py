"""What one EHR may be told, and how: its profile. `profile_rules` reads one and says what is wrong with it."""

from collections.abc import Iterable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pipeline.domain.event import EntityType
from pipeline.formats.fhir.forms import FORMS, Form
from pipeline.formats.fhir.terms import OURS

PROFILE_VERSION: Final = 1

BED_FIELDS: Final = (
    "identifier", "kind", "status", "operational_status", "place", "occupancy", "environment", "allocation", "service",
    "staffed", "licensed", "surge", "isolation", "level_of_care", "age_group", "negative_pressure", "telemetry",
)  # fmt: skip
ENCOUNTER_FIELDS: Final = (
    "identifier", "patient", "patient_class", "status", "location", "prior_location", "temporary_location",
    "pending_location", "service", "admitted_at", "discharged_at", "disposition", "admit_decision_at",
    "expected_discharge_at", "discharge_ordered_at", "episode",
)  # fmt: skip
TRANSFER_FIELDS: Final = (
    "identifier", "kind", "status", "stage", "last_modified", "patient", "encounter", "origin", "destination", "service",
    "requested_at",
)  # fmt: skip
PROCEDURE_FIELDS: Final = (
    "identifier", "status", "start", "end", "place", "patient", "encounter", "service", "reason",
)  # fmt: skip
PATIENT_FIELDS: Final = ("identifier", "identifiers", "name", "birth_date", "sex", "deceased", "merged_into")

FIELDS: Final[dict[EntityType, tuple[str, ...]]] = {
    EntityType.BED: BED_FIELDS,
    EntityType.ENCOUNTER: ENCOUNTER_FIELDS,
    EntityType.PATIENT: PATIENT_FIELDS,
    EntityType.TRANSFER: TRANSFER_FIELDS,
    EntityType.PROCEDURE: PROCEDURE_FIELDS,
}
"""Fields that have a FHIR form, by entity type; a profile names those that it lets out."""

OWNER_FIELDS: Final[dict[EntityType, frozenset[str]]] = {
    EntityType.BED: frozenset(BED_FIELDS) - {"identifier", "kind", "status", "place"},
    EntityType.ENCOUNTER: frozenset({"pending_location"}),
    EntityType.PATIENT: frozenset(),
    EntityType.TRANSFER: frozenset(TRANSFER_FIELDS),
    EntityType.PROCEDURE: frozenset(),
}
"""What may be written to the EHR of record at most: operational status, our own extensions on a bed, reservations, and the
transfer centre's tasks."""

OWNER_MAKES: Final = frozenset({EntityType.ENCOUNTER, EntityType.PATIENT, EntityType.PROCEDURE})
"""Types whose resources an owner makes itself."""

OWNER_FIRST: Final[dict[EntityType, frozenset[str]]] = {EntityType.TRANSFER: frozenset({"patient", "encounter"})}
"""Fields that may be written to an owner only as long as it hasn't stated them itself: who somebody is, is its word."""

NO_PLACE: Final = frozenset({EntityType.STAFFING, EntityType.DIVERSION})
"""What an EHR has no place for: no clinical resource means it, so none is bent to carry it."""

LEVELS: Final = ("room", "floor", "point_of_care", "building", "facility")

MAX_BUNDLE_ENTRIES: Final = 500
MIN_BUNDLE_BYTES: Final = 16_384
MAX_BUNDLE_BYTES: Final = 4_000_000

Create = Literal["never", "transaction-if-none-exist", "put-client-id"]
Reservation = Literal["untellable", "extension", "pending-location"]


class StatusMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An EHR's own codes for one status: ours to theirs where they differ, and the code system they are of."""

    codes: dict[str, str] = {}
    system: str | None = None


class ResourceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one entity type goes out.

    `system` names the identifier by which we find the resource; `{tenant}` stands for the tenant. Its value is
    `namespace/id`, but for a namespace in `authorities`: that has a system of its own there, with the bare id. `statuses`
    is by field, as `statuses.STATUSES` lists them. `base_path` goes between the server's base address and the resource's
    type, where this EHR serves it at a base of its own.
    """

    system: str
    fields: tuple[str, ...]
    create: Create = "never"
    authorities: dict[str, str] = {}
    statuses: dict[str, StatusMap] = {}
    base_path: Annotated[str, Meta(pattern=r"^([A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*)?$")] = ""


class ReferenceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How entities are named that are referred to but not written: as in `ResourceProfile`."""

    system: str
    authorities: dict[str, str] = {}


class PlaceProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a place is named: the levels around a bed, innermost first, and the parts that make a bed's own entity key."""

    system: str
    levels: tuple[Literal["room", "floor", "point_of_care", "building", "facility"], ...] = LEVELS
    bed_namespace: Literal["facility", "building", "point_of_care"] = "facility"
    bed_id: tuple[Literal["building", "floor", "point_of_care", "room", "bed"], ...] = ("point_of_care", "room", "bed")


class PatientIdentifiers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Systems of a person's other identifiers: by assigning authority, else `system` with `{authority}` filled in."""

    system: str
    authorities: dict[str, str] = {}


class BundleProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Writes that are under way at once travel together, in one *batch* of independent entries.

    At most `entries` (2 to 500) and about `bytes` in one. `reads` lets reads by id do so too. `creates` says that a
    conditional create is fenced in a batch as it is in a transaction of one entry; without it each stays a transaction.
    """

    entries: int
    bytes: int = 1_000_000
    reads: bool = True
    creates: bool = False


class LimitsProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this EHR documents that it takes; the settings may ask for less, not for more."""

    rate_per_s: Annotated[float, Meta(gt=0)] | None = None
    concurrency: Annotated[int, Meta(ge=1)] | None = None


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One EHR.

    `fence` is `if-match` where the server refuses a stale version; `none` declares it unfenced. `revision` says where our
    revision travels: in an extension, in a tag, or nowhere, which declares that a late writer can't be told from the EHR.
    `reservation` is how a bed's promise reaches this EHR, if at all. `extensions` gives extensions of ours, by name,
    another URL. `episodes` names episodes of care. `authorisation` lists what the EHR demands of us, all of it.
    `headers` are sent with every request and hold no secret. `fhir` is the version whose form resources have there; R4 is
    R4B's too. `export` says that the server has `$export` at its base (FHIR Bulk Data Access): everything is read by that
    when it is compared.
    """

    version: int
    role: Literal["owner", "replica"]
    places: PlaceProfile
    resources: dict[EntityType, ResourceProfile]
    fhir: Literal["R4", "R5"] = "R4"
    references: dict[EntityType, ReferenceProfile] = {}
    patient_identifiers: PatientIdentifiers | None = None
    episodes: ReferenceProfile | None = None
    fence: Literal["if-match", "none"] = "if-match"
    revision: Literal["extension", "tag", "none"] = "extension"
    reservation: Reservation = "untellable"
    extensions: dict[str, str] = {}
    limits: LimitsProfile = LimitsProfile()
    bundle: BundleProfile | None = None
    headers: dict[str, str] = {}
    authorisation: tuple[Literal["bearer", "smart", "mutual-tls"], ...] = ()
    export: bool = False

    @property
    def form(self) -> Form:
        """Where resources have what, at this EHR."""
        return FORMS[self.fhir]

    def fields_of(self, entity_type: EntityType) -> frozenset[str]:
        """Fields that may be written."""
        mapped = self.resources.get(entity_type)
        return frozenset(mapped.fields) if mapped else frozenset()

    def extension(self, name: str) -> str:
        """URL of an extension of ours at this EHR."""
        return self.extensions.get(name, OURS + name)

    def status(self, entity_type: EntityType, field: str, code: str) -> str:
        """This EHR's code for a status of ours."""
        mapped = self._statuses(entity_type, field)
        return mapped.codes.get(code, code) if mapped else code

    def codes_of(self, entity_type: EntityType, field: str, ours: Iterable[str]) -> dict[str, str]:
        """This EHR's codes for statuses of ours, each with the one of ours that it means.

        Where several of ours go out as one code, it means the one that is written like it, else the first.
        """
        sent = {code: self.status(entity_type, field, code) for code in ours}
        meant: dict[str, str] = {}
        for code, theirs in sent.items():
            meant.setdefault(theirs, code)
        return meant | {code: code for code, theirs in sent.items() if code == theirs}

    def status_system(self, entity_type: EntityType, field: str, ours: str) -> str:
        """Code system of a status at this EHR, `ours` where it has none of its own."""
        mapped = self._statuses(entity_type, field)
        return mapped.system or ours if mapped else ours

    def _statuses(self, entity_type: EntityType, field: str) -> StatusMap | None:
        resource = self.resources.get(entity_type)
        return resource.statuses.get(field) if resource else None
