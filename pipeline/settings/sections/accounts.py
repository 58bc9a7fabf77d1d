"""Settings of what proves, compares and counts: audit, reconciliation, budgets, retention, tenants."""

from typing import Annotated

from pydantic import Field

from pipeline.settings.sections.base import Count, File, Name, Seconds, Section
from pipeline.settings.sections.files import FileSigner


class ReconcileSettings(Section):
    """Comparing what we hold with what destinations show, and repairing it."""

    instance: Annotated[Name, Field(description="stable name of this instance, e.g. the pod's")] = "0"
    destinations: Annotated[tuple[Name, ...], Field(description="FHIR destinations that are compared; all if left out")] = ()
    every_s: Annotated[Seconds, Field(description="how often what changed is compared")] = 900.0
    nightly_at: Annotated[
        str,
        Field(description="when everything is compared, UTC", pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"),
    ] = "02:30"
    page_count: Annotated[int, Field(description="resources asked for in one page", ge=10, le=1_000)] = 200
    requests_at_once: Annotated[int, Field(description="most requests to one destination at once", ge=1, le=64)] = 4
    request_timeout_s: Annotated[Seconds, Field(description="time for one request")] = 30.0
    settle_s: Annotated[Seconds, Field(description="a change that its writer has not heard of by then was lost on its way")] = (
        900.0
    )
    repairs_per_s: Annotated[float, Field(description="most repairs in a second", gt=0, le=2_000)] = 10.0
    max_repairs: Annotated[Count, Field(description="most repairs of one run; the rest is left for the next", le=10_000)] = 5_000
    repairs_of_one: Annotated[
        int, Field(description="one entity is repaired so often in repairs_window_s; then somebody is told instead", ge=1, le=100)
    ] = 3
    repairs_window_s: Annotated[Seconds, Field(description="window of repairs_of_one")] = 86_400.0
    snapshots_s: Annotated[Seconds, Field(description="sources' snapshots are compared that are no older")] = 86_400.0
    sign_key_id: Annotated[Name, Field(description="name of the key that signs the reports of full runs")] = "reconcile-1"
    sign_key_file: Annotated[
        File | None, Field(description="file with that key, Ed25519, PEM: openssl genpkey -algorithm ed25519; none: not signed")
    ] = None


class AuditSettings(Section):
    """Signed checkpoints of the audit log."""

    instance: Annotated[Name, Field(description="stable name of the auditor's instance")] = "0"
    checkpoint_s: Annotated[float, Field(description="a checkpoint is signed so often, and at a stop", ge=1, le=86_400)] = 900.0
    key_id: Annotated[Name, Field(description="name of the key that checkpoints are signed with")] = "audit-1"
    key_file: Annotated[
        File | None,
        Field(description="file with that key, Ed25519, PEM, for the auditor alone: openssl genpkey -algorithm ed25519"),
    ] = None
    keys: Annotated[tuple[FileSigner, ...], Field(description="public keys that checkpoints were signed with, old ones too")] = ()


class WebhookSettings(Section):
    """Who is told of incidents."""

    url: Annotated[str, Field(description="where it takes a POST, without a query", pattern=r"^https?://[^@\s?#]+$")]
    key_file: Annotated[File, Field(description="file with the key that signs each message, at least 32 bytes")]
    ca_file: Annotated[File | None, Field(description="certificates of who signed the server's certificate, PEM")] = None
    timeout_s: Annotated[Seconds, Field(description="time for one attempt", le=60)] = 10.0


class BudgetsSettings(Section):
    """Error budgets."""

    instance: Annotated[Name, Field(description="stable name of this instance")] = "0"
    policy_file: Annotated[
        File | None, Field(description="policy of budgets (error-budgets.md); the shipped one if left out")
    ] = None
    webhook: Annotated[WebhookSettings | None, Field(description="who is told when an incident begins and ends")] = None


class TenantRules(Section):
    """Where the data of a tenant may go, and what for."""

    regions: Annotated[tuple[Name, ...], Field(description="regions that its data may be in", min_length=1)]
    purposes: Annotated[tuple[Name, ...], Field(description="purposes that it agrees to, e.g. treatment", min_length=1)]


class RetentionSettings(Section):
    """How long raw artefacts are kept, by class; what `topics/` declares where left out. `surgeline topics apply` makes it so."""

    raw_days: Annotated[int | None, Field(description="original bytes: raw.*", ge=1, le=3_650)] = None
    quarantine_days: Annotated[int | None, Field(description="records that could not be judged", ge=1, le=3_650)] = None
