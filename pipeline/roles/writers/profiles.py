"""Profiles of the destinations that settings name, and what each is told of. Loads nothing that speaks to a destination."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from pipeline.destinations.fhir.profile import InvalidProfile, load_profile
from pipeline.destinations.hl7v2.profile import load_out_profile
from pipeline.domain.accounts.books import Expects, of_types
from pipeline.domain.event import EntityType
from pipeline.formats.fhir.profile import Profile
from pipeline.formats.hl7v2.out_messages import name_of
from pipeline.formats.hl7v2.out_profile import OutProfile
from pipeline.roles.process import Refused
from pipeline.settings.model import Settings
from pipeline.settings.sections.workers import Hl7OutSettings, WriterSettings


class _ForRole(Protocol):
    @property
    def role(self) -> str: ...


class _Section(_ForRole, Protocol):
    @property
    def profile(self) -> str: ...


_P = TypeVar("_P", bound=_ForRole)


def profile_for(name: str, section: WriterSettings) -> Profile:
    """Profile of a FHIR server; Refused with all its problems, or if it is for another role."""
    return _checked(f"writers.{name}", section, load_profile)


def out_profile_for(name: str, section: Hl7OutSettings) -> OutProfile:
    """Profile of a receiver of HL7 v2; Refused with all its problems, or if it is for another role."""
    return _checked(f"hl7_out.{name}", section, load_out_profile)


def _checked(where: str, section: _Section, load: Callable[[str], _P]) -> _P:
    try:
        profile = load(section.profile)
    except InvalidProfile as error:
        raise Refused([f"{where}.profile: {error}"]) from None
    if profile.role != section.role:
        raise Refused([f"{where}.role is {section.role}, but the profile {section.profile} is for an {profile.role}"])
    return profile


def entity_types_of(name: str, section: WriterSettings) -> frozenset[EntityType]:
    """Entity types that the destination's profile maps: only of these an outcome is due."""
    return frozenset(profile_for(name, section).resources)


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
