"""Destinations from settings, and how any FHIR server that the settings name knows us."""

import random
from dataclasses import dataclass
from typing import Final

from pipeline.destinations.auth.bearer import BearerFile
from pipeline.destinations.auth.credentials import Credentials, News, Observe
from pipeline.destinations.auth.smart import KeyFile, SmartBackend
from pipeline.destinations.auth.tls import TlsFiles, TlsUnusable
from pipeline.destinations.auth.token_endpoint import Grant, TokenEndpoint
from pipeline.destinations.fhir.bundles import BUNDLES_AT_ONCE
from pipeline.destinations.fhir.destination import FhirDestination
from pipeline.destinations.fhir_http import TlsSource, system_clock
from pipeline.formats.fhir.profile import Profile
from pipeline.ops import log_catalogue as lines
from pipeline.ops import metrics
from pipeline.ops.logs import emit
from pipeline.roles.process import Refused
from pipeline.roles.writers.profiles import profile_for
from pipeline.settings.sections.servers import ServerSettings
from pipeline.settings.sections.workers import WriterSettings

_SETTING_OF: Final = {"bearer": "token_file", "smart": "smart", "mutual-tls": "cert_file"}
"""What an EHR demands, by its profile, and the setting that meets it."""


@dataclass(frozen=True, slots=True)
class Access:
    """How a server knows us, and we it. None: no token; None: whom this machine trusts."""

    credentials: Credentials | None
    tls: TlsSource | None


def pace_of(name: str, section: WriterSettings) -> tuple[int, float]:
    """Most writes at once and most requests in a second: what the settings ask for, within what the EHR documents."""
    profile = profile_for(name, section)
    rate_per_s = min(section.rate_per_s, profile.limits.rate_per_s or section.rate_per_s)
    return most_at_once(section.concurrency, profile), rate_per_s


def most_at_once(requests: int, profile: Profile) -> int:
    """Writes at once that make at most so many requests, within what the EHR documents.

    With bundles they are those that fit into the bundles under way and the one that fills meanwhile.
    """
    requests = min(requests, profile.limits.concurrency or requests)
    return requests if profile.bundle is None else min(requests, BUNDLES_AT_ONCE + 1) * profile.bundle.entries


def destination_of(name: str, section: WriterSettings, digest_key: bytes) -> FhirDestination:
    """The destination that a writer's section describes; Refused as `profile_for`, or where the EHR could not know us."""
    profile = profile_for(name, section)
    access = access_to(f"writers.{name}", name, section, profile)
    return FhirDestination(
        name, section.base_url, profile, digest_key, access.credentials, section.attempt_timeout_s, tls=access.tls
    )


def access_to(where: str, name: str, section: ServerSettings, profile: Profile) -> Access:
    """For the server of the section at `where`; `name` stands in metrics and log lines.

    Refused with all that the server demands by its profile and the section lacks, or where TLS can't be had.
    """
    missing = [_SETTING_OF[demand] for demand in profile.authorisation if getattr(section, _SETTING_OF[demand]) is None]
    if missing:
        raise Refused([f"{where}.{setting}: missing; the server demands it by its profile" for setting in missing])
    observe = teller(name)
    tls = _tls(where, name, section, observe)
    return Access(_credentials(section, observe, tls), tls)


def _credentials(section: ServerSettings, observe: Observe, tls: TlsSource | None) -> Credentials | None:
    smart = section.smart
    if smart is None:
        return None if section.token_file is None else BearerFile(section.token_file, observe)
    grant = Grant(smart.client_id, smart.scope, section.base_url, smart.token_url)
    keys = KeyFile(smart.key_file, smart.algorithm, smart.key_id, observe)
    return SmartBackend(TokenEndpoint(grant, system_clock, tls), keys, observe, random.random)


def _tls(where: str, name: str, section: ServerSettings, observe: Observe) -> TlsSource | None:
    """The server's authority, and our certificate where it asks for one."""
    if section.ca_file is None and section.cert_file is None:
        return None
    try:
        files = TlsFiles(section.ca_file, section.cert_file, section.key_file, observe)
    except TlsUnusable:
        raise Refused(
            [f"{where}: ca_file, cert_file, key_file make no TLS. All PEM? Is it the certificate's own key, with no pass phrase?"]
        ) from None
    if files.certificate_ends_at_s is not None:
        metrics.CERTIFICATE_ENDS.of(name).set_function(lambda: files.certificate_ends_at_s or 0.0)
    return files.context


def teller(name: str) -> Observe:
    """Counts and logs what happens to our credentials at a server."""

    def tell(news: News) -> None:
        metrics.CREDENTIALS.of(name, news.value).inc()
        emit(lines.CREDENTIALS_GOOD if news.is_good else lines.CREDENTIALS_BAD, destination=name, cause=news.value)

    return tell
