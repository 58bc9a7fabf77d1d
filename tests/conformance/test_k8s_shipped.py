"""What ships together fits together: settings, the policy, profiles and manifests, and the pages that tell of them."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from msgspec import UNSET

from pipeline.destinations.fhir.profile import load_profile
from pipeline.domain.event import Event
from pipeline.domain.identifiers import Millis
from pipeline.formats.fhir.inbound import needed
from pipeline.formats.fhir.inbound_verdict import Origin
from pipeline.formats.fhir.naming import RESOURCE_TYPE
from pipeline.formats.json_events import Client, parse_event
from pipeline.ops.reference.settings import settings_of
from pipeline.roles.policies import load_policy
from tests.conformance.test_k8s import Manifest, container_of, files_of, labels_of, of_kind, pod_of, roles
from tests.conftest import REPOSITORY

SETTINGS: Final = (
    "surgeline.example.yaml",
    "k8s/base/surgeline.yaml",
    "k8s/overlays/demo/surgeline.yaml",
    "compose.yaml",
)
DEMOS: Final = ("k8s/overlays/demo/surgeline.yaml", "compose.yaml")
KUBERNETES: Final = "docs/operating/kubernetes.md"
NOW: Final = Millis(1_800_000_000_000)

SAYS_WHO: Final = (
    r"\bsource_systems: \[([^\]]+)\]",
    r"^\s+server: ([\w-]+)$",
    r"^source_system: (\S+)$",
    r"\"source_system\": \"([^\"]+)\"",
    r"surgeline feeds (?:live|compare) (\w\S*)",
)
"""How settings, HL7 profiles, requests and commands name a source system."""

EXAMPLE: Final = re.compile(r"^Idempotency-Key: (\S+)\n\n(\{.*?\})\n```\n\n```json\n(\{.*?\})\n```", re.MULTILINE | re.DOTALL)
"""A request in the page on HTTP: its key, its body, and the answer."""

STAY: Final = {
    "resourceType": "Encounter",
    "subject": {"reference": "Patient/1"},
    "location": [{"location": {"reference": "Location/1"}}],
}
"""A stay as many EHRs show it: its references have no identifiers."""


@cache
def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def settings_in(name: str) -> dict[str, Any]:
    document = yaml.safe_load(text_of(name))
    return dict(yaml.safe_load(document["configs"]["settings"]["content"]) if name == "compose.yaml" else document)


def section(page: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text_of(page), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """Rows of its tables, cell by cell."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


# -- who speaks


def named_systems() -> Iterator[tuple[str, str]]:
    profiles = (REPOSITORY / "pipeline/profiles/hl7").glob("*.yaml")
    pages = (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
    for name in (*SETTINGS, *(str(file.relative_to(REPOSITORY)) for file in (*profiles, *pages))):
        for pattern in SAYS_WHO:
            for found in re.findall(pattern, text_of(name), re.MULTILINE):
                for system in found.split(","):
                    yield name, system.strip()


def test_every_source_system_that_ships_is_one_that_the_shipped_policy_knows() -> None:
    policy = load_policy()
    named = set(named_systems())
    assert {*SETTINGS, "pipeline/profiles/hl7/default.yaml", "docs/http-api.md", "docs/operating/feeds.md"} <= {
        name for name, _ in named
    }
    assert sorted((name, system) for name, system in named if policy.role_of(system) is None) == []


@pytest.mark.parametrize("demo", DEMOS)
def test_a_demo_takes_the_example_of_the_http_api_as_it_stands_and_all_of_it_counts(demo: str) -> None:
    example = EXAMPLE.search(text_of("docs/http-api.md"))
    assert example is not None
    (client,) = settings_in(demo)["http"]["clients"]
    speaks = Client(client["name"], client["tenant"], frozenset(client["source_systems"]))
    event = parse_event(json.loads(example[2]), client=speaks, idempotency_key=example[1], item=0, received_at=NOW)
    assert isinstance(event, Event), event
    assert event.event_id == json.loads(example[3])["event_id"]
    policy = load_policy()
    role = policy.role_of(event.source_system)
    assert role is not None
    stated = [name for name in event.payload.__struct_fields__ if getattr(event.payload, name) is not UNSET]
    assert stated
    assert [name for name in stated if policy.rank(event.entity_type, name, role) is None] == []


# -- what an EHR is asked to allow


def rights_in(scope: str) -> dict[str, set[str]]:
    """Letters of the rights (c, r, u, d, s) by resource type."""
    found: dict[str, set[str]] = {}
    for each in scope.split():
        kind, _, letters = each.removeprefix("system/").partition(".")
        found.setdefault(kind, set()).update(letters)
    return found


def shipped_scopes() -> Iterator[tuple[str, str, str]]:
    """Where, the profile that is written by, and the scope of its writer."""
    for name in SETTINGS:
        for writer in settings_in(name).get("writers", {}).values():
            if "smart" in writer:
                yield name, writer["profile"], writer["smart"]["scope"]
    page = "docs/operating/ehr-authorisation.md"
    (scope,) = re.findall(r"^ +scope: (.+)$", text_of(page), re.MULTILINE)
    yield page, "sekmet-owner", scope


def test_a_writers_scope_covers_each_resource_that_its_profile_maps_and_nothing_else() -> None:
    scopes = list(shipped_scopes())
    assert len(scopes) >= 3
    for where, profile, scope in scopes:
        mapped = load_profile(profile).resources
        wanted = {
            RESOURCE_TYPE[kind]: {"r", "s", "u"} | ({"c"} if resource.create != "never" else set())
            for kind, resource in mapped.items()
        }
        assert rights_in(scope) == wanted, where


def test_a_feeds_scope_covers_what_it_searches_what_a_stay_refers_to_and_its_subscription() -> None:
    judged = 0
    for name in SETTINGS:
        for feed in settings_in(name).get("fhir", {}).get("feeds", {}).values():
            if "smart" not in feed:
                continue
            rights = rights_in(feed["smart"]["scope"])
            searched = {search.partition("?")[0] for search in feed["searches"]}
            origin = Origin("default", feed["facility"], feed["server"], "feed")
            referred = {each.partition("/")[0] for each in needed(STAY, origin, load_profile(feed["profile"]))}
            assert searched == {"Encounter"}, f"{name}: judge what these refer to as well"
            assert referred == {"Patient", "Location"}
            assert all({"r", "s"} <= rights.get(kind, set()) for kind in searched), name
            assert all("r" in rights.get(kind, set()) for kind in referred), name
            assert {"c", "r", "u", "s"} <= rights["Subscription"], name
            judged += 1
    assert judged >= 2


# -- places of others


def test_the_folder_of_each_partner_and_workstation_is_made_where_its_volume_is_mounted() -> None:
    settings = settings_in("k8s/base/surgeline.yaml")
    places = {
        "files": settings["files"]["partners"],
        "files-out": settings["files_out"]["receivers"],
        "downtime": settings["downtime"]["workstations"],
    }
    workloads = {arguments[1]: each for each, _, arguments in roles(files_of("base"))}
    for role, named in places.items():
        pod = pod_of(workloads[role])
        (making,) = pod["initContainers"]
        (mount,) = making["volumeMounts"]
        assert mount in container_of(workloads[role])["volumeMounts"]
        assert any(each["name"] == mount["name"] and "persistentVolumeClaim" in each for each in pod["volumes"])
        folders = {each["folder"] for each in named.values() if "://" not in each["folder"]}
        assert {str(Path(folder).parent) for folder in folders} == {mount["mountPath"]}
        assert making["command"][:2] == ["mkdir", "--parents"]
        assert set(making["command"][2:]) == folders


def test_the_page_on_patient_data_names_every_folder_of_the_settings() -> None:
    folders = [each.name for each in settings_of() if each.name.rpartition(".")[2] in ("data_dir", "folder")]
    assert len(folders) >= 8
    assert [name for name in folders if f"`{name}`" not in text_of("docs/phi.md")] == []


# -- the page on Kubernetes, and who may speak to whom


def components() -> set[str]:
    """Of the workloads that run a role."""
    return {labels_of(each)["app.kubernetes.io/component"] for each, _, _ in roles(files_of("base", "writer"))}


def policies(folder: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each["spec"] for each in of_kind(files_of(folder), "NetworkPolicy")}


def chosen(selector: Manifest) -> set[str]:
    (asked,) = selector["matchExpressions"]
    assert (asked["key"], asked["operator"]) == ("app.kubernetes.io/component", "In")
    return set(asked["values"])


def test_what_is_rolled_out_first_leaves_out_every_role() -> None:
    (listed,) = re.findall(r"app\.kubernetes\.io/component notin \(([a-z,-]+)\)", text_of(KUBERNETES))
    assert set(listed.split(",")) == components()


def test_the_page_says_of_every_role_what_it_is() -> None:
    told = {name for cells in rows(section(KUBERNETES, "What is there")) if len(cells) == 4 for name in cells[0].split(", ")}
    assert told - {"role"} == components() | {"operator"}


def test_the_page_names_every_secret_and_those_that_the_operators_place_lacks() -> None:
    mounted = {
        labels_of(each)["app.kubernetes.io/component"]: {
            source["secret"]["name"]
            for volume in pod_of(each)["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
        }
        for each in of_kind(files_of("base"), "StatefulSet", "Deployment", "Job")
    }
    every = {name for names in mounted.values() for name in names}
    page = section(KUBERNETES, "Secrets")
    assert {name for cells in rows(page) for name in re.findall(r"`(surgeline-[\w-]+)`", cells[0])} == every
    lacking = re.search(r"mounts all of them but `audit-1\.key` and (.*?);", page)
    assert lacking is not None
    assert set(re.findall(r"`([\w-]+)`", lacking[1])) == every - mounted["operator"]


@pytest.mark.parametrize("policy", ["ehr", "places"])
def test_the_page_says_who_may_go_out_by_which_port(policy: str) -> None:
    page = rows(section(KUBERNETES, "Who speaks to whom"))
    told = {cells[2]: set(cells[0].replace("writers", "writer").split(", ")) for cells in page}
    spec = policies("base")[policy]
    ports = ", ".join(str(port["port"]) for rule in spec["egress"] for port in rule["ports"])
    assert told[ports] == chosen(spec["podSelector"])


def test_the_demos_ehr_lets_in_whoever_asks_it() -> None:
    """All that may ask an EHR, but for fhir, which the demo leaves out."""
    (rule,) = policies("overlays/demo")["ehr-server"]["ingress"]
    (source,) = rule["from"]
    assert chosen(source["podSelector"]) == chosen(policies("base")["ehr"]["podSelector"]) - {"fhir"}
