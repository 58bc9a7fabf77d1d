"""Destinations from settings."""

import ssl
from collections.abc import Mapping

from pipeline.destinations.fhir import FhirDestination
from pipeline.destinations.fhir_profile import InvalidProfile, load_profile
from pipeline.domain.event import EntityType
from pipeline.formats.fhir.profile import Profile
from pipeline.roles.process import Refused
from pipeline.settings import WriterSettings


def profile_for(name: str, section: WriterSettings) -> Profile:
    """Profile of a destination; Refused with all its problems, or if it is for another role."""
    try:
        profile = load_profile(section.profile)
    except InvalidProfile as error:
        raise Refused([f"writers.{name}.profile: {error}"]) from None
    if profile.role != section.role:
        raise Refused([f"writers.{name}.role is {section.role}, but the profile {section.profile} is for an {profile.role}"])
    return profile


def entity_types_of(name: str, section: WriterSettings) -> frozenset[EntityType]:
    """Entity types that the destination's profile maps: only of these an outcome is due."""
    return frozenset(profile_for(name, section).resources)


def destination_of(name: str, section: WriterSettings, digest_key: bytes) -> FhirDestination:
    """The destination that a writer's section describes; Refused as `profile_for`."""
    profile = profile_for(name, section)

    async def bearer() -> Mapping[str, str]:
        """Read anew for each request, so that a rotated token needs no restart."""
        if section.token_file is None:
            return {}
        return {"Authorization": f"Bearer {section.token_file.read_text().strip()}"}

    return FhirDestination(name, section.base_url, profile, digest_key, bearer, section.attempt_timeout_s, tls=_tls(section))


def _tls(section: WriterSettings) -> ssl.SSLContext | None:
    """The destination's authority, and our certificate where it asks for one."""
    if section.ca_file is None and section.cert_file is None:
        return None
    context = ssl.create_default_context(cafile=str(section.ca_file) if section.ca_file else None)
    if section.cert_file is not None:
        context.load_cert_chain(section.cert_file, section.key_file)
    return context
