"""Destinations from settings: what an EHR demands is there before anything starts, and what happens to it is told."""

import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.destinations.auth import files
from pipeline.destinations.auth.bearer import BearerFile
from pipeline.destinations.auth.smart import SmartBackend
from pipeline.destinations.fhir.profile import PROFILES, load_profile
from pipeline.ops import metrics
from pipeline.roles.process import Refused
from pipeline.roles.ways_in.fhir import servers_of
from pipeline.roles.writers import destinations
from pipeline.roles.writers.destinations import access_to, destination_of
from pipeline.settings.model import Settings
from pipeline.settings.sections.ways_in import FhirFeed
from pipeline.settings.sections.workers import WriterSettings
from tests.support.certificates import Authority
from tests.support.fhir_lab import DIGEST_KEY
from tests.support.token_server import CLIENT, SCOPE, ec_key, pem, write

OPEN = load_profile("sekmet-owner")
"""Of a server that demands nothing of us."""


def section(folder: Path, profile: str = "sekmet-owner", **access: Any) -> WriterSettings:
    data_dir = folder / "data"
    return WriterSettings(profile=profile, role="owner", base_url="https://e.example.org", data_dir=data_dir, **access)


def demanding(folder: Path, *demands: str) -> str:
    """A profile of an EHR that demands these."""
    text = (PROFILES / "sekmet-owner.yaml").read_text() + f"\nauthorisation: [{', '.join(demands)}]\n"
    return str(write(folder / "profile.yaml", text))


def smart(folder: Path) -> dict[str, Any]:
    return {"client_id": CLIENT, "key_file": write(folder / "smart.key", pem(ec_key())), "scope": SCOPE}


def ours(folder: Path) -> dict[str, Path]:
    certificate, key = Authority().issue("us").put(folder, "client")
    return {"cert_file": certificate, "key_file": key}


def test_what_the_ehr_demands_by_its_profile_and_the_settings_lack_is_told_all_at_once(tmp_path: Path) -> None:
    profile = demanding(tmp_path, "smart", "mutual-tls")
    with pytest.raises(Refused) as caught:
        destination_of("ehr", section(tmp_path, profile, token_file=write(tmp_path / "token", "t")), DIGEST_KEY)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["writers.ehr.smart", "writers.ehr.cert_file"]


def test_what_servers_of_feeds_demand_and_the_settings_lack_is_told_of_all_feeds_at_once(tmp_path: Path) -> None:
    feed = {
        "server": "ehr-main",
        "facility": "MAIN",
        "base_url": "https://e.example.org",
        "criteria": "urn:topic",
        "searches": ["Location"],
        "endpoint": "https://us.example.org/fhir/NAME",
        "hook_token_file": str(write(tmp_path / "hook.token", "a-hook-secret-of-at-least-24-bytes")),
    }
    demands = demanding(tmp_path, "smart", "mutual-tls")
    feeds = {
        "beds": {"profile": demands},
        "stays": {"profile": "nobody"},
        "later": {"profile": "sekmet-owner", "version": "R5"},
        "open": {"profile": "sekmet-owner"},
    }
    sections = {name: feed | more | {"endpoint": f"https://us.example.org/fhir/{name}"} for name, more in feeds.items()}
    settings = Settings.model_validate({"demo": True, "kafka": {"bootstrap_servers": "127.0.0.1:1"}, "fhir": {"feeds": sections}})
    with pytest.raises(Refused) as caught:
        servers_of(settings)
    told = [problem.partition(":")[0] for problem in caught.value.problems]
    assert told == ["fhir.feeds.beds.smart", "fhir.feeds.beds.cert_file", "fhir.feeds.stays.profile", "fhir.feeds.later.version"]
    for refused in ("beds", "stays", "later"):
        del settings.fhir.feeds[refused]
    assert servers_of(settings).keys() == {"open"}


async def test_an_ehr_that_gets_what_it_demands_is_taken(tmp_path: Path) -> None:
    profile = demanding(tmp_path, "smart", "mutual-tls")
    made = destination_of("ehr", section(tmp_path, profile, smart=smart(tmp_path), **ours(tmp_path)), DIGEST_KEY)
    await made.close()


def test_each_way_of_the_settings_makes_its_credentials_for_writers_and_for_feeds(tmp_path: Path) -> None:
    nothing = access_to("writers.ehr", "ehr", section(tmp_path), OPEN)
    assert (nothing.credentials, nothing.tls) == (None, None)
    token = access_to("writers.ehr", "ehr", section(tmp_path, token_file=write(tmp_path / "token", "t")), OPEN)
    assert isinstance(token.credentials, BearerFile)
    feed = FhirFeed.model_construct(
        base_url="https://e.example.org", token_file=None, smart=section(tmp_path, smart=smart(tmp_path)).smart, **ours(tmp_path)
    )
    both = access_to("fhir.feeds.f", "f", feed.model_copy(update={"ca_file": None}), OPEN)
    assert isinstance(both.credentials, SmartBackend)
    assert both.tls is not None


def test_files_that_make_no_tls_refuse_the_start_without_showing_anything_of_them(tmp_path: Path) -> None:
    given = ours(tmp_path) | {"cert_file": write(tmp_path / "other.pem", Authority().issue("x").certificate)}
    with pytest.raises(Refused) as caught:
        destination_of("ehr", section(tmp_path, **given), DIGEST_KEY)
    assert "writers.ehr" in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


def test_the_end_of_our_certificate_is_shown_before_it_comes_and_moves_with_a_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_EVERY_S", 0.0)
    now, tls = time.time(), access_to("writers.ends", "ends", section(tmp_path, **ours(tmp_path)), OPEN).tls
    shown = metrics.CERTIFICATE_ENDS.of("ends").collect
    assert [sample.value for metric in shown() for sample in metric.samples] == [pytest.approx(now + 86_400, abs=60)]
    Authority().issue("us", days=90).put(tmp_path, "client")
    assert tls is not None
    tls()
    assert [sample.value for metric in shown() for sample in metric.samples] == [pytest.approx(now + 90 * 86_400, abs=60)]


async def test_what_happens_to_credentials_is_counted_and_logged_by_a_bounded_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(destinations, "emit", lambda line, **fields: told.append((line.name, fields)))
    monkeypatch.setattr(files, "LOOK_EVERY_S", 0.0)
    path = write(tmp_path / "token", "first")
    credentials = access_to("writers.told", "told", section(tmp_path, token_file=path), OPEN).credentials
    assert credentials is not None
    await credentials.authorise(1.0)
    for content in ("second", "not a token"):
        write(path, content)
        await credentials.authorise(1.0)
    assert told == [
        ("credentials.good", {"destination": "told", "cause": "bearer_rotated"}),
        ("credentials.bad", {"destination": "told", "cause": "bearer_unusable"}),
    ]
    assert metrics.CREDENTIALS.of("told", "bearer_rotated")._value.get() == 1
