"""All settings: a section a field. `reading` reads them, `rules` says what may not be combined.

No setting holds a secret: those ending in `key_file`, `password_file` or `token_file` name the file that does.
Relative paths start at the folder of the YAML file.
"""

from typing import Annotated

from pydantic import Field

from pipeline.settings.sections.accounts import AuditSettings, BudgetsSettings, ReconcileSettings, RetentionSettings, TenantRules
from pipeline.settings.sections.base import DEMO_KEY, File, Name, Section, read_raw_key
from pipeline.settings.sections.files import DowntimeSettings, FilesOutSettings, FilesSettings
from pipeline.settings.sections.kafka import KafkaSettings, SchemaRegistry
from pipeline.settings.sections.ways_in import FhirSettings, HttpSettings, MllpSettings, RawEncryption
from pipeline.settings.sections.workers import (
    GateSettings,
    HealthSettings,
    Hl7OutSettings,
    LoggingSettings,
    WorkerSettings,
    WriterSettings,
)


class Settings(Section):
    """All settings."""

    demo: Annotated[bool, Field(description="allows what is unsafe, for a demo on one machine")] = False
    tenant_default: Annotated[Name, Field(description="organisation where nothing else says so")] = "default"
    digest_key_file: Annotated[
        File | None, Field(description="file with the key (at least 32 bytes) for digests of entity ids in logs and audit")
    ] = None
    flags_file: Annotated[
        File | None, Field(description="file with flags that limit what is written (rollout.md); everything is, without it")
    ] = None
    kafka: KafkaSettings = KafkaSettings()
    http: HttpSettings = HttpSettings()
    mllp: MllpSettings = MllpSettings()
    fhir: FhirSettings = FhirSettings()
    files: FilesSettings = Field(default_factory=FilesSettings)
    reconcile: ReconcileSettings = ReconcileSettings()
    files_out: FilesOutSettings = Field(default_factory=FilesOutSettings)
    downtime: DowntimeSettings = DowntimeSettings()
    raw_encryption: RawEncryption = RawEncryption()
    schema_registry: SchemaRegistry = SchemaRegistry()
    gate: GateSettings = Field(default_factory=GateSettings)
    writers: Annotated[dict[Name, WriterSettings], Field(description="destinations by name")] = {}
    hl7_out: Annotated[dict[Name, Hl7OutSettings], Field(description="receivers of HL7 v2 by name, told of each change")] = {}
    audit: AuditSettings = AuditSettings()
    budgets: BudgetsSettings = BudgetsSettings()
    retention: RetentionSettings = RetentionSettings()
    tenants: Annotated[
        dict[Name, TenantRules], Field(description="rules of tenants; once there are any, data of a tenant without goes nowhere")
    ] = {}
    worker: WorkerSettings = WorkerSettings()
    health: HealthSettings = HealthSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def destinations(self) -> tuple[str, ...]:
        """Names of all destinations, in order."""
        return tuple(sorted((*self.writers, *self.hl7_out)))

    def digest_key(self) -> bytes:
        """Key for digests of entity ids; reads the file, which `load` has checked. The demo's own where a demo names none."""
        return DEMO_KEY if self.digest_key_file is None else self.digest_key_file.read_bytes().strip()

    def raw_key(self) -> tuple[str, bytes]:
        """Id and the 32 bytes of the key that encrypts now; the demo's own where a demo names none."""
        section = self.raw_encryption
        return section.key_id, DEMO_KEY if section.key_file is None else read_raw_key(section.key_file)

    def raw_keys(self) -> dict[str, bytes]:
        """Each key that raw bytes may be encrypted with, by id."""
        return {key.key_id: read_raw_key(key.key_file) for key in self.raw_encryption.previous} | dict((self.raw_key(),))
