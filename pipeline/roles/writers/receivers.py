"""Receivers of HL7 v2 from settings; and what is expected at each destination, of whichever kind."""

import time
from collections.abc import Callable

from pipeline.destinations.auth.tls import TlsFiles, TlsUnusable
from pipeline.destinations.fhir.profile import InvalidProfile
from pipeline.destinations.hl7v2.destination import Hl7v2Destination
from pipeline.destinations.hl7v2.mllp_client import News as LineNews
from pipeline.destinations.hl7v2.profile import load_out_profile
from pipeline.destinations.protocol import Ambiguous, Confirmed, Retry, always
from pipeline.destinations.protocol import Refused as TurnedDown
from pipeline.domain.accounts.books import Expects, of_types
from pipeline.domain.event import EntityType
from pipeline.formats.hl7v2.out_messages import Letter, name_of
from pipeline.formats.hl7v2.out_profile import OutProfile
from pipeline.ops import metrics
from pipeline.roles.process import Refused
from pipeline.roles.writers.destinations import entity_types_of, teller
from pipeline.settings.model import Settings
from pipeline.settings.sections.workers import Hl7OutSettings


class Timed(Hl7v2Destination):
    """A receiver whose answers are timed, as those of other destinations are."""

    async def send(self, letter: Letter, may_go: Callable[[], bool] = always) -> Confirmed | TurnedDown | Retry | Ambiguous:
        """See `Hl7v2Destination.send`; the time for a connection counts as well."""
        began_s = time.monotonic()
        try:
            return await super().send(letter, may_go)
        finally:
            metrics.WRITER_REQUEST_SECONDS.of(self.name, "send").observe(time.monotonic() - began_s)


def out_profile_for(name: str, section: Hl7OutSettings) -> OutProfile:
    """Profile of a receiver; Refused with all its problems, or if it is for another role."""
    try:
        profile = load_out_profile(section.profile)
    except InvalidProfile as error:
        raise Refused([f"hl7_out.{name}.profile: {error}"]) from None
    if profile.role != section.role:
        raise Refused([f"hl7_out.{name}.role is {section.role}, but the profile {section.profile} is for an {profile.role}"])
    return profile


def receiver_of(name: str, section: Hl7OutSettings) -> Hl7v2Destination:
    """The destination that a section describes; Refused as `out_profile_for`, or where TLS can't be had."""
    profile = out_profile_for(name, section)
    tls = None
    if section.tls:
        try:
            files = TlsFiles(section.ca_file, section.cert_file, section.key_file, teller(name))
        except TlsUnusable:
            raise Refused(
                [f"hl7_out.{name}: ca_file, cert_file, key_file make no TLS. All PEM? Is it the certificate's own key?"]
            ) from None
        if files.certificate_ends_at_s is not None:
            metrics.CERTIFICATE_ENDS.of(name).set_function(lambda: files.certificate_ends_at_s or 0.0)
        tls = files.context

    def observe(news: LineNews) -> None:
        metrics.LINE_NEWS.of(name, news.value).inc()

    return Timed(name, section.host, section.port, profile, tls, observe)


def types_at(settings: Settings) -> dict[str, frozenset[EntityType]]:
    """Entity types of which each destination is told anything."""
    told = {name: entity_types_of(name, section) for name, section in settings.writers.items()}
    receivers = {name: out_profile_for(name, section) for name, section in settings.hl7_out.items()}
    return told | {name: frozenset(kind for kind, names in at.sends.items() if names) for name, at in receivers.items()}


def expected_at(settings: Settings) -> dict[str, Expects]:
    """Which accepted records are due at each destination."""
    expects = {name: of_types(entity_types_of(name, section)) for name, section in settings.writers.items()}
    return expects | {name: _told_by(out_profile_for(name, section)) for name, section in settings.hl7_out.items()}


def _told_by(profile: OutProfile) -> Expects:
    return lambda record: name_of(record, profile) is not None
