"""What settings of tenants, of the audit's checkpoints and of the webhook may not say together."""

from collections.abc import Iterator, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from pipeline.domain.residency import Agreed, Borders, Place, Rule
from pipeline.settings.model import Settings
from pipeline.settings.rules.common import content_of, is_loopback

MIN_WEBHOOK_KEY_BYTES = 32
_REMEDIES = {
    Rule.NO_RULES: "Write its regions and purposes under tenants, or don't name it here",
    Rule.NOT_MEANT: "Name it among the place's tenants",
    Rule.REGION: "Name another destination for it, and in `tenants` here those whose data may come",
    Rule.PURPOSE: "Leave it out of `tenants` here, or write the purpose under tenants once it was agreed to",
}

Found = tuple[str, str, str]
"""The setting, what is wrong, what to write in its place."""


class Leaving(Protocol):
    """A section that says where data goes."""

    @property
    def region(self) -> str | None: ...
    @property
    def purpose(self) -> str | None: ...
    @property
    def tenants(self) -> tuple[str, ...]: ...


def borders_of(settings: Settings) -> Borders:
    """The tenants' rules."""
    rules = settings.tenants.items()
    return Borders({name: Agreed(frozenset(each.regions), frozenset(each.purposes)) for name, each in rules})


def place_of(section: Leaving) -> Place:
    """Where a section's data goes."""
    return Place(section.region, section.purpose, section.tenants)


def problems_of_tenants(settings: Settings) -> Iterator[Found]:
    """Each tenant whose data a destination is to get and may not: refused before anything is sent."""
    borders = borders_of(settings)
    sections: Mapping[str, Mapping[str, Leaving]] = {"writers": settings.writers, "hl7_out": settings.hl7_out}
    for kind, named in sections.items():
        for name, section in named.items():
            yield from _of_place(borders, f"{kind}.{name}", section)
    for name, receiver in settings.files_out.receivers.items():
        tenant = receiver.tenant or settings.tenant_default
        place = Place(receiver.region, receiver.purpose)
        rule = borders.refuses(tenant, place)
        if rule is not None:
            what = f"files about {tenant} may not go there: {rule.value}"
            yield f"files_out.receivers.{name}", what, "Write region and purpose of the receiver, and the tenant's under tenants"
        # The audit log tells of every tenant.
        others = [each for each in borders.meant(place) if each != tenant and borders.refuses(each, place) is not None]
        if others and "audit" in receiver.sends:
            what = f"the audit log tells of {others[0]} too, whose data may not go there"
            yield f"files_out.receivers.{name}", what, "Leave audit out of sends"


def _of_place(borders: Borders, where: str, section: Leaving) -> Iterator[Found]:
    if not borders.are_drawn:
        if section.tenants:
            yield f"{where}.tenants", "names tenants, though none has rules", "Write regions and purposes of each under tenants"
        return
    missing = [name for name in ("region", "purpose") if getattr(section, name) is None]
    for name in missing:
        yield f"{where}.{name}", "missing, though tenants have rules", "Write where it is, and what it gets data for"
    if missing:
        return
    place = place_of(section)
    for tenant in borders.meant(place):
        rule = borders.refuses(tenant, place)
        if rule is not None:
            yield f"{where}.tenants", f"data of {tenant} may not go there: {rule.value}", _REMEDIES[rule]


def problems_of_audit(settings: Settings, role: str) -> Iterator[Found]:
    """Keys of checkpoints."""
    section = settings.audit
    seen: set[str] = set()
    for number, each in enumerate(section.keys):
        if each.key_id in seen:
            yield f"audit.keys.{number}.key_id", "another key has the same id", "Give each key its own id"
        seen.add(each.key_id)
        if (data := content_of(each.public_file)) is not None and not is_ed25519(data, is_private=False):
            remedy = "Write: openssl pkey -in audit.key -pubout -out audit.pub"
            yield f"audit.keys.{number}.public_file", f"{each.public_file} is no Ed25519 public key", remedy
    remedy = "Write: openssl genpkey -algorithm ed25519 -out audit.key"
    if section.key_file is None:
        if role == "auditor" and not settings.demo:
            yield "audit.key_file", "missing", remedy
        return
    if (data := content_of(section.key_file)) is not None and not is_ed25519(data, is_private=True):
        yield "audit.key_file", f"{section.key_file} is no Ed25519 private key", remedy
    if section.key_id not in seen:
        yield "audit.keys", f"lacks the public key of {section.key_id}: nobody could verify", "Name it, by key_id and public_file"


def problems_of_webhook(settings: Settings) -> Iterator[Found]:
    """Who is told of incidents."""
    hook = settings.budgets.webhook
    if hook is None:
        return
    url = urlsplit(hook.url)
    if url.scheme == "http" and not settings.demo and not is_loopback(url.hostname or ""):
        yield "budgets.webhook.url", "what is said of this hospital would cross the network in clear text", "Write https://…"
    data = content_of(hook.key_file)
    if data is not None and len(data) < MIN_WEBHOOK_KEY_BYTES:
        yield "budgets.webhook.key_file", f"holds fewer than {MIN_WEBHOOK_KEY_BYTES} bytes", "Write: openssl rand -hex 32"


def is_ed25519(data: bytes, *, is_private: bool) -> bool:
    """Whether a file's content is such a key."""
    # Slow to load, and most roles' settings name no key.
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    try:
        key = OKPKey.import_key(data)
    except (JoseError, ValueError, TypeError, AttributeError):
        return False
    return key.curve_name == "Ed25519" and key.is_private is is_private
