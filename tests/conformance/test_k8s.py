"""The manifests say what the code says: ports, probes, commands, settings, secrets; and nothing in them is less than restricted.

The files are always judged. What kustomize makes of them is judged too where `kustomize` or `kubectl` is installed.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import typer
import yaml

from pipeline.cli import app
from pipeline.ops.health import Health, Heartbeat
from pipeline.settings.model import Settings
from pipeline.settings.reading import load
from pipeline.settings.rules.check import DEMO_TOKEN_DIGEST, SECTIONS_OF_ROLE, files
from tests.conftest import NO_KUSTOMIZE, REPOSITORY
from tests.support.secrets import secret_content

K8S: Final = REPOSITORY / "k8s"
RENDER_S: Final = 60
VERSIONS: Final = ("1.31", "1.34", "1.37")
"""Versions of Kubernetes whose schemas judge; the first is the oldest that docs/operating/kubernetes.md promises."""

PATCHES: Final = {"apart.yaml", "kafka-addresses.yaml"}
GUESTS: Final = {"kafka", "ehr"}
"""Workloads of the demo that are not ours."""

COPIES: Final = frozenset({"gate", "writer"})
"""Roles whose volume holds nothing that Kafka does not keep; what is lost with another's is lost."""

STOP_MARGIN_S: Final = 15
"""Between the end of the drain and SIGKILL."""

EVERY_ROLE: Final = ""
"""Settings are judged for all roles at once: an operator's commands may need any of them."""

ROLES: Final = frozenset(SECTIONS_OF_ROLE) - {"topics"}
Manifest = dict[str, Any]


def documents_in(text: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text) if each]


def files_of(*folders: str) -> list[Manifest]:
    """Each manifest that lies in the folders, with the writer's placeholders filled as writers/ehr does."""
    found = []
    for folder in folders:
        for file in sorted((K8S / folder).glob("*.yaml")):
            if file.name in PATCHES:
                continue
            text = (
                file.read_text().replace("DESTINATION", "ehr").replace("name: INSTANCE", "name: SURGELINE_WRITERS__EHR__INSTANCE")
            )
            found += [each for each in documents_in(text) if each.get("kind") not in (None, "Kustomization", "Component")]
    return found


@cache
def rendered(folder: str) -> list[Manifest]:
    """What kustomize makes of a folder."""
    if (kustomize := shutil.which("kustomize")) is not None:
        command = [kustomize, "build", str(K8S / folder)]
    elif (kubectl := shutil.which("kubectl")) is not None:
        command = [kubectl, "kustomize", str(K8S / folder)]
    else:
        pytest.skip(NO_KUSTOMIZE)
    done = subprocess.run(command, capture_output=True, text=True, timeout=RENDER_S, check=False)
    assert done.returncode == 0, done.stderr
    return documents_in(done.stdout)


@pytest.fixture(params=["files", "demo", "production"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """Base and writer as they lie there; and both overlays as rendered."""
    return files_of("base", "writer") if request.param == "files" else rendered(f"overlays/{request.param}")


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] in kinds]


def name_of(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    """Ours, the Job and the operator's place included."""
    return [each for each in of_kind(manifests, "StatefulSet", "Deployment", "Job") if each["metadata"]["name"] not in GUESTS]


def roles(manifests: list[Manifest]) -> Iterator[tuple[Manifest, Manifest, list[str]]]:
    """Workload, its container and its command line, for each that runs a role."""
    for each in workloads(manifests):
        container = container_of(each)
        if container.get("args", [""])[0] == "run":
            yield each, container, container["args"]


def pod_of(workload: Manifest) -> Manifest:
    return dict(workload["spec"]["template"]["spec"])


def container_of(workload: Manifest) -> Manifest:
    (container,) = pod_of(workload)["containers"]
    return dict(container)


def labels_of(workload: Manifest) -> dict[str, str]:
    return dict(workload["spec"]["template"]["metadata"]["labels"])


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    listed = selector.get("matchExpressions", [])
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(each["key"]) in each["values"] for each in listed
    )


# -- settings as the pods see them


def config_of(manifests: list[Manifest], name: str) -> dict[str, str]:
    """A ConfigMap's content; in the files, what its generator reads."""
    for each in of_kind(manifests, "ConfigMap"):
        if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", each["metadata"]["name"]):
            return dict(each["data"])
    base = K8S / "base"
    match name:
        case "surgeline-site":
            return dict(line.split("=", 1) for line in (base / "site.env").read_text().splitlines() if line)
        case _:
            file = base / f"{name.removeprefix('surgeline-').replace('config', 'surgeline')}.yaml"
            return {file.name: file.read_text()}


def mounted(workload: Manifest) -> set[str]:
    """Each file of a Secret that the pod sees, by its whole path."""
    volumes = {each["name"]: each for each in pod_of(workload)["volumes"]}
    found = set()
    for mount in container_of(workload)["volumeMounts"]:
        for source in volumes.get(mount["name"], {}).get("projected", {}).get("sources", []):
            found |= {f"{mount['mountPath']}/{item['path']}" for item in source["secret"]["items"]}
    return found


class Place:
    """The file system of one pod under a folder: its settings, its secrets, and nobody else's."""

    def __init__(self, folder: Path, manifests: list[Manifest], workload: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = folder / name_of(workload).replace(" ", "-")
        for path in mounted(workload):
            self._write(path, secret_content(Path(path).name), 0o440)
        self._write("/etc/surgeline/flags/flags.yaml", config_of(manifests, "surgeline-flags")["flags.yaml"], 0o644)
        text = config_of(manifests, "surgeline-config")["surgeline.yaml"]
        text = re.sub(r"(: ?)(/(?:etc|var)/)", lambda found: f"{found[1]}{self.root}{found[2]}", text)
        self._write("/etc/surgeline/surgeline.yaml", text, 0o644)
        for name, value in config_of(manifests, "surgeline-site").items():
            monkeypatch.setenv(name, value)
        for name in ("SURGELINE_AUDIT__KEY_FILE", "SURGELINE_RECONCILE__SIGN_KEY_FILE"):
            monkeypatch.delenv(name, raising=False)
        for each in container_of(workload)["env"]:
            assert each["name"].startswith("SURGELINE_") or each["name"] == "LOGNAME", "no other variable is known"
            if each["name"] not in ("SURGELINE_CONFIG", "LOGNAME"):
                value = f"{self.root}{each['value']}" if "value" in each else f"{workload['metadata']['name']}-0"
                monkeypatch.setenv(each["name"], value)

    def _write(self, path: str, text: str, mode: int) -> None:
        file = self.root / path.removeprefix("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def load(self, role: str) -> Settings:
        return load(self.root / "etc/surgeline/surgeline.yaml", role=role)

    def inside(self, path: Path) -> str:
        return f"/{path.relative_to(self.root)}"


def role_name(arguments: list[str]) -> str:
    return "-".join(arguments[1:])


def test_each_role_starts_from_its_settings_with_its_own_secrets_and_has_no_others(
    manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = [(each, role_name(arguments)) for each, _, arguments in roles(manifests)]
    judged += [(each, "topics") for each in of_kind(manifests, "Job")]
    judged += [(each, EVERY_ROLE) for each in workloads(manifests) if each["metadata"]["name"] == "surgeline-operator"]
    assert len(judged) >= 7
    for workload, role in judged:
        place = Place(tmp_path, manifests, workload, monkeypatch)
        settings = place.load(role)
        kind, _, destination = role.partition("-") if role not in SECTIONS_OF_ROLE else (role, "", "")
        wanted = {
            place.inside(path)
            for setting, path in files(settings)
            if setting.partition(".")[0] in SECTIONS_OF_ROLE.get(kind, {setting.partition(".")[0]})
            and not (destination and setting.startswith("writers.") and not setting.startswith(f"writers.{destination}."))
        }
        assert mounted(workload) == {path for path in wanted if "/secrets/" in path}, role


def test_an_instance_is_the_pods_stable_name_and_its_table_lies_on_the_pods_own_volume(
    manifests: list[Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workload, container, arguments in roles(manifests):
        if workload["kind"] != "StatefulSet":
            continue
        settings = Place(tmp_path, manifests, workload, monkeypatch).load(role_name(arguments))
        sections = {
            "gate": settings.gate,
            "fhir": settings.fhir,
            "files": settings.files,
            "files-out": settings.files_out,
            "auditor": settings.audit,
            "budgets": settings.budgets,
        }
        section: Any = settings.writers[arguments[2]] if arguments[1] == "writer" else sections[arguments[1]]
        assert section.instance == f"{workload['metadata']['name']}-0"
        (named,) = [each for each in container["env"] if each["name"].endswith("__INSTANCE")]
        assert named["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
        if arguments[1] in ("fhir", "auditor", "budgets"):
            continue
        (claim,) = workload["spec"]["volumeClaimTemplates"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == claim["metadata"]["name"]]
        assert mount["mountPath"] in str(section.data_dir)


def test_every_role_and_every_destination_has_a_workload() -> None:
    for overlay, missing in (("demo", {"fhir", "files", "files-out", "downtime"}), ("production", set[str]())):
        manifests = rendered(f"overlays/{overlay}")
        run = [arguments for _, _, arguments in roles(manifests)]
        assert {each[1] for each in run} == ROLES - missing
        written = yaml.safe_load(config_of(manifests, "surgeline-config")["surgeline.yaml"])["writers"]
        assert sorted(each[2] for each in run if each[1] == "writer") == sorted(written)


def test_a_copy_of_a_writers_folder_with_another_name_is_another_destinations_writer(tmp_path: Path) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    shutil.copytree(K8S / "writers/ehr", tmp_path / "k8s/writers/lab")
    copied = tmp_path / "k8s/writers/lab/kustomization.yaml"
    copied.write_text(re.sub(r"\behr\b", "lab", copied.read_text()).replace("__EHR__", "__LAB__"))
    overlay = tmp_path / "k8s/overlays/production/kustomization.yaml"
    overlay.write_text(overlay.read_text().replace("  - ../../writers/ehr\n", "  - ../../writers/ehr\n  - ../../writers/lab\n"))
    manifests = rendered(str(overlay.parent))
    writers = {arguments[2]: each for each, _, arguments in roles(manifests) if arguments[1] == "writer"}
    assert set(writers) == {"ehr", "lab"}
    for name, other in (("ehr", "lab"), ("lab", "ehr")):
        assert not selects(writers[name]["spec"]["selector"], labels_of(writers[other]))
        assert f"SURGELINE_WRITERS__{name.upper()}__INSTANCE" in {each["name"] for each in container_of(writers[name])["env"]}
    budgets = [name_of(each) for each in of_kind(manifests, "PodDisruptionBudget")]
    assert {"PodDisruptionBudget surgeline-writer-ehr", "PodDisruptionBudget surgeline-writer-lab"} <= set(budgets)


# -- commands, ports and probes


def test_every_command_exists(manifests: list[Manifest]) -> None:
    for workload in workloads(manifests):
        command: Any = typer.main.get_command(app)
        for word in container_of(workload).get("args", []):
            command = getattr(command, "commands", {}).get(word, command)
        assert workload["metadata"]["name"] == "surgeline-operator" or not hasattr(command, "commands"), name_of(workload)


def test_probes_ask_what_is_answered_where_the_role_listens(manifests: list[Manifest]) -> None:
    health = Health(Heartbeat(), 15.0, {})
    settings = yaml.safe_load(config_of(manifests, "surgeline-config")["surgeline.yaml"])
    for workload, container, _ in roles(manifests):
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert settings["health"]["host"] == "0.0.0.0"
        for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            asked = container[probe]["httpGet"]
            assert asked["path"] == path, name_of(workload)
            assert health.answer(asked["path"])[0] == 200
            assert ports[asked["port"]] == settings["health"]["base_port"]
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] > settings["worker"]["start_timeout_s"]


def test_ports_are_those_of_the_settings_and_services_lead_to_them(manifests: list[Manifest]) -> None:
    settings = yaml.safe_load(config_of(manifests, "surgeline-config")["surgeline.yaml"])
    for _, container, arguments in roles(manifests):
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        expected = {"health": settings["health"]["base_port"]}
        if "port" in settings.get(arguments[1], {}):
            expected[arguments[1]] = settings[arguments[1]]["port"]
        assert ports == expected
    for service in of_kind(manifests, "Service"):
        for port in service["spec"]["ports"]:
            leads_to(manifests, {"matchLabels": service["spec"]["selector"]}, port["targetPort"], name_of(service))
    for policy in of_kind(manifests, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            for port in rule["ports"]:
                leads_to(manifests, policy["spec"]["podSelector"], port["port"], name_of(policy))


def leads_to(manifests: list[Manifest], selector: Manifest, port: str, who: str) -> None:
    """Some pod is selected, and each that is has a port of that name."""
    chosen = [each for each in of_kind(manifests, "StatefulSet", "Deployment") if selects(selector, labels_of(each))]
    assert chosen, who
    for each in chosen:
        assert port in {known["name"] for known in container_of(each)["ports"]}, f"{who}: {name_of(each)}"


# -- what keeps a node, a roll-out or an intruder from doing harm


def test_every_container_is_restricted(manifests: list[Manifest]) -> None:
    for workload in of_kind(manifests, "StatefulSet", "Deployment", "Job"):
        pod, where = pod_of(workload), name_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["runAsUser"] > 0, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert pod["automountServiceAccountToken"] is False, where
        assert pod["enableServiceLinks"] is False, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where
        for container in (*pod.get("initContainers", ()), container_of(workload)):
            context = container["securityContext"]
            assert container["image"] == container_of(workload)["image"], where
            assert context["allowPrivilegeEscalation"] is False, where
            assert context["capabilities"] == {"drop": ["ALL"]}, where
            assert context.get("readOnlyRootFilesystem") is True or workload["metadata"]["name"] == "kafka", where
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
            assert "memory" in container["resources"]["limits"], where
        for volume in pod.get("volumes", []):
            assert "hostPath" not in volume, where
            assert volume.get("projected", {}).get("defaultMode", 0o440) == 0o440, where


def test_a_stop_has_the_time_of_the_drain_and_a_way_in_is_first_taken_out_of_its_service(manifests: list[Manifest]) -> None:
    drain_s = yaml.safe_load(config_of(manifests, "surgeline-config")["surgeline.yaml"])["worker"]["drain_s"]
    for workload, container, arguments in roles(manifests):
        pause_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod_of(workload)["terminationGracePeriodSeconds"] >= drain_s + pause_s + STOP_MARGIN_S
        assert bool(pause_s) == (arguments[1] in ("http", "mllp", "fhir"))


def test_a_drained_node_takes_one_pod_of_each_role_and_waits_for_none_that_is_not_ready(manifests: list[Manifest]) -> None:
    budgets = of_kind(manifests, "PodDisruptionBudget")
    for workload, _, arguments in roles(manifests):
        (budget,) = [each for each in budgets if selects(each["spec"]["selector"], labels_of(workload))]
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        for spread in pod_of(workload)["topologySpreadConstraints"]:
            assert selects(spread["labelSelector"], labels_of(workload))
        if workload["kind"] == "StatefulSet":
            assert workload["spec"]["podManagementPolicy"] == "Parallel"
        if "volumeClaimTemplates" in workload["spec"]:
            kept = "Delete" if arguments[1] in COPIES else "Retain"
            assert workload["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": kept, "whenScaled": kept}


def test_nothing_speaks_to_anything_by_default(manifests: list[Manifest]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(manifests, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    brokers = {int(each.rpartition(":")[2]) for each in bootstrap(manifests)}
    assert {each["port"] for rule in policies["kafka"]["egress"] for each in rule["ports"]} == brokers
    assert all(selects(policies["kafka"]["podSelector"], labels_of(each)) for each in workloads(manifests))


def bootstrap(manifests: list[Manifest]) -> list[str]:
    return config_of(manifests, "surgeline-site")["SURGELINE_KAFKA__BOOTSTRAP_SERVERS"].split(",")


# -- secrets


def test_no_file_holds_a_secret() -> None:
    for file in (*K8S.rglob("*"), REPOSITORY / "compose.yaml", REPOSITORY / "Dockerfile"):
        if file.is_file():
            text = file.read_text()
            assert not re.search(r"(?m)^kind: Secret$|PRIVATE KEY|SHOW_FAULTS", text), file.name
            assert set(re.findall(r"\b[0-9a-f]{64}\b", text)) <= {DEMO_TOKEN_DIGEST}, file.name


def test_the_secret_store_gives_what_the_pods_ask_for() -> None:
    manifests = rendered("overlays/production")
    given = {
        (each["spec"]["target"]["name"], item["secretKey"])
        for each in of_kind(manifests, "ExternalSecret")
        for item in each["spec"]["data"]
    }
    asked = {
        (source["secret"]["name"], item["key"])
        for workload in workloads(manifests)
        for volume in pod_of(workload)["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        for item in source["secret"]["items"]
    }
    assert given == asked


# -- Kubernetes' own schemas


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(manifests: list[Manifest], version: str) -> None:
    foreign = {"external-secrets.io/v1", "monitoring.coreos.com/v1"}
    for each in manifests:
        if each["apiVersion"] not in foreign:
            kubernetes_validate.validate(each, version, strict=True)
