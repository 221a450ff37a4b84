"""deploy/ holds what it promises: valid by its formats' own schemas, hardened, and closed where vLLM is."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from registry.entries import RegistryFile
from registry.strict_yaml import load_strict
from router_service.policy_files import load_policies
from router_service.settings import PREFIX, Settings
from tests.meta.deployed import (
    DEPLOY,
    KUSTOMIZATIONS,
    MANIFESTS,
    ROOT,
    bytes_of,
    commands_of_vllm,
    compose,
    containers,
    documents,
    load,
    of_kind,
    pods,
    selects,
)

KUBERNETES = "1.32"
DOCUMENTS = documents()
CONTAINERS = containers()
SERVICES = compose()["services"]
ENDING = {"volumes", "weights"}  # Services that end by themselves.
EXAMPLES = [
    *(ROOT / name for name in ("README.md", "registry.yaml", "registry.sample.yaml")),
    *sorted(path for path in DEPLOY.rglob("*") if path.is_file()),
]
# vLLM listens on every address there, because network policies, or an internal network, stand before it.
GUARDED = {DEPLOY / "compose.yaml", DEPLOY / "kubernetes/vllm.yaml"}
VLLM = {"app.kubernetes.io/name": "vllm"}
TEXTS = {path: path.read_text() for path in sorted(DEPLOY.rglob("*")) if path.is_file()}


# The formats' own schemas.


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_manifest_is_valid(name: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES, strict=True)


def test_the_check_of_manifests_finds_what_is_wrong() -> None:
    (vllm,) = [found for name, found in DOCUMENTS.items() if name.endswith("StatefulSet/vllm")]
    broken = json.loads(json.dumps(vllm))
    broken["spec"]["template"]["spec"]["containers"][0]["securtyContext"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_compose_is_valid() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*check, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker on the PATH")
def test_docker_takes_the_compose_file() -> None:
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if known.returncode:
        pytest.skip("this docker has no compose")
    command = ["docker", "compose", "-f", DEPLOY / "compose.yaml", "--env-file", DEPLOY / ".env.sample", "config", "-q"]
    secrets = {"OPENAI_API_KEY": "x", "VLLM_API_KEY": "x", "GRAFANA_PASSWORD": "x"}
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"} | secrets, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on the PATH")
def test_kustomize_builds_it_and_every_reference_leads_somewhere() -> None:
    done = subprocess.run(["kubectl", "kustomize", DEPLOY / "kubernetes"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for document in built:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    there = {(document["kind"], document["metadata"]["name"]) for document in built}
    wanted = {("ConfigMap", name) for document in built for name in named(document, "configMap", "name")}
    wanted |= {
        ("PersistentVolumeClaim", name)
        for document in built
        for name in named(document, "persistentVolumeClaim", "claimName")
    }
    assert len(wanted) == 11 and wanted <= there
    assert {document["metadata"].get("namespace", "journeyman") for document in built} == {"journeyman"}


def named(value, key, name):
    """Every value of `name` under `key`, however deep."""
    if isinstance(value, list):
        for item in value:
            yield from named(item, key, name)
    elif isinstance(value, dict):
        for found, item in value.items():
            if found == key and isinstance(item, dict):
                yield item[name]
            yield from named(item, key, name)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_a_kustomization_names_what_is_there(folder: Path) -> None:
    content = load(folder / "kustomization.yaml")
    files = [item.partition("=")[2] or item for maps in content.get("configMapGenerator", ()) for item in maps["files"]]
    assert all((folder / name).exists() for name in [*files, *content.get("resources", ())])


def test_every_manifest_is_applied_but_for_the_sample_of_secrets() -> None:
    listed = {name for name in load(DEPLOY / "kubernetes/kustomization.yaml")["resources"] if name.endswith(".yaml")}
    assert {path.name for path in MANIFESTS} - listed == {"secrets.sample.yaml"}


# Kubernetes, hardened.


def test_the_namespace_enforces_the_strictest_standard() -> None:
    (namespace,) = of_kind("Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_do_little(name: str) -> None:
    container, pod = CONTAINERS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not [volume for volume in pod.get("volumes", ()) if "hostPath" in volume]


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_requests_within_limits(name: str) -> None:
    resources = CONTAINERS[name][0]["resources"]
    assert {"cpu", "memory"} <= resources["limits"].keys()
    for what, asked in resources["requests"].items():
        assert bytes_of(asked) <= bytes_of(resources["limits"][what])


@pytest.mark.parametrize("workload", sorted(of_kind("Deployment") | of_kind("StatefulSet")))
def test_what_runs_for_good_is_probed(workload: str) -> None:
    for container in pods()[workload]["spec"]["containers"]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
        ports = {port["name"] for port in container["ports"]}
        assert all(container[probe]["httpGet"]["port"] in ports for probe in container if probe.endswith("Probe"))


def test_the_gateways_probes_are_its_routes() -> None:
    container, _ = CONTAINERS["gateway/gateway"]
    routes = (ROOT / "router_service/routes/operations.py").read_text()
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f'@get("{container[probe]["httpGet"]["path"]}"' in routes


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_a_container_mounts_is_a_volume_of_its_pod(name: str) -> None:
    container, pod = CONTAINERS[name]
    assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["volumes"]}


def test_services_become_no_environment() -> None:
    """A Service called vllm would set VLLM_PORT=tcp://..., one called journeyman JOURNEYMAN_PORT."""
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in pods().values())


def test_the_gateway_is_one_process_at_a_time() -> None:
    spec = of_kind("Deployment")["gateway"]["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert of_kind("PersistentVolumeClaim")["state"]["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_a_budget_for_disruptions_lets_nodes_be_drained() -> None:
    budgets = of_kind("PodDisruptionBudget")
    assert budgets.keys() == {"gateway", "vllm"}
    assert all(budget["spec"]["maxUnavailable"] == 1 for budget in budgets.values())


def test_secrets_come_from_secrets() -> None:
    for container, _ in CONTAINERS.values():
        for item in container.get("env", ()):
            assert "valueFrom" in item or not re.search("KEY|PASSWORD|TOKEN|SECRET", item["name"])
    sample = {name: set(found["stringData"]) for name, found in of_kind("Secret").items()}
    for container, pod in CONTAINERS.values():
        for item in container.get("env", ()):
            if "valueFrom" in item:
                wanted = item["valueFrom"]["secretKeyRef"]
                assert wanted["key"] in sample[wanted["name"]]
        assert set(named(pod, "secret", "secretName")) <= sample.keys()


# Nobody but the gateway reaches vLLM.


def test_whatever_is_not_allowed_is_denied() -> None:
    assert of_kind("NetworkPolicy")["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_only_the_gateway_comes_to_vllm_and_vllm_goes_nowhere() -> None:
    labels = pods()["vllm"]["metadata"]["labels"]
    assert VLLM.items() <= labels.items()
    chosen = [policy["spec"] for policy in of_kind("NetworkPolicy").values() if selects(policy, labels)]
    ingress = [rule for spec in chosen for rule in spec.get("ingress", ())]
    assert ingress == [
        {
            "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}],
            "ports": [{"protocol": "TCP", "port": 8000}],
        }
    ]
    assert not [rule for spec in chosen for rule in spec.get("egress", ())]


def test_every_pod_has_a_policy_of_its_own() -> None:
    policies = {name: found for name, found in of_kind("NetworkPolicy").items() if name != "default-deny"}
    for workload, pod in pods().items():
        assert any(selects(policy, pod["metadata"]["labels"]) for policy in policies.values()), workload


def test_the_way_to_the_internet_leads_past_private_networks() -> None:
    (rule,) = of_kind("NetworkPolicy")["internet"]["spec"]["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    blocked = rule["to"][0]["ipBlock"]["except"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(blocked)


def test_services_are_of_this_cluster_only() -> None:
    for name, service in of_kind("Service").items():
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP", name
    assert of_kind("Service")["vllm"]["spec"]["clusterIP"] == "None"
    assert of_kind("StatefulSet")["vllm"]["spec"]["serviceName"] == "vllm"


# Compose, hardened.


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_little(name: str) -> None:
    service = SERVICES[name]
    user, _, group = service["user"].partition(":")
    assert int(user) > 0 and int(group) > 0
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert "privileged" not in service and "cap_add" not in service
    assert name in ENDING or "test" in service["healthcheck"]


def test_vllm_is_on_the_internal_network_alone_and_publishes_nothing() -> None:
    assert compose()["networks"]["inference"] == {"internal": True}
    replicas = {name: service for name, service in SERVICES.items() if service.get("entrypoint") == ["vllm", "serve"]}
    assert replicas.keys() == {"vllm-0", "vllm-1"}
    for service in replicas.values():
        assert service["networks"].keys() == {"inference"}
        assert not {"ports", "network_mode"} & service.keys()
    assert {name for name, service in SERVICES.items() if "inference" in service.get("networks", ())} == {
        "gateway",
        *replicas,
    }


def test_published_ports_are_of_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_mounted_files_are_there() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose()["volumes"]


def test_every_variable_without_a_default_is_in_the_sample() -> None:
    sample = set(re.findall(r"^([A-Z0-9_]+)=", TEXTS[DEPLOY / ".env.sample"], re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z0-9_]+)", TEXTS[DEPLOY / "compose.yaml"])) == sample


# Both, and the image.


def images() -> dict[str, str]:
    found = {name: container["image"] for name, (container, _) in CONTAINERS.items()}
    found |= {name: service["image"] for name, service in SERVICES.items()}
    bases = re.findall(r"^FROM (\S+)", TEXTS[DEPLOY / "Dockerfile"], re.MULTILINE)
    return found | {f"Dockerfile/{number}": base for number, base in enumerate(bases)}


@pytest.mark.parametrize(("name", "image"), images().items())
def test_an_image_is_pinned_and_the_same_everywhere(name: str, image: str) -> None:
    base, _, tag = image.rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+\.\d+(-[\w.-]+)?", tag), image
    assert {other for other in images().values() if other.rpartition(":")[0] == base} == {image}


def environment() -> dict[str, dict[str, str]]:
    gateway, _ = CONTAINERS["gateway/gateway"]
    lines = re.findall(rf"({PREFIX}[A-Z_]+)=(\S+)", TEXTS[DEPLOY / "Dockerfile"])
    return {
        "compose": SERVICES["gateway"]["environment"],
        "kubernetes": {item["name"]: item.get("value", "secret") for item in gateway["env"]},
        "image": dict(lines),
    }


@pytest.mark.parametrize("where", environment())
def test_every_setting_is_one_of_the_gateways(where: str) -> None:
    given = {name: value for name, value in environment()[where].items() if name.startswith(PREFIX)}
    assert {PREFIX + name.upper() for name in Settings.__struct_fields__} >= given.keys()
    settings = Settings.from_env(given)
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)
    assert str(settings.state) == "/var/lib/journeyman/state"


def test_replicas_see_adapters_where_the_gateway_does_and_may_not_change_them() -> None:
    place = "/var/lib/journeyman/state/artifacts"
    assert f"adapters:{place}" in SERVICES["gateway"]["volumes"]
    assert all(f"adapters:{place}:ro" in SERVICES[name]["volumes"] for name in ("vllm-0", "vllm-1"))
    gateway, vllm = (
        next(mount for mount in CONTAINERS[name][0]["volumeMounts"] if mount["name"] == "adapters")
        for name in ("gateway/gateway", "vllm/vllm")
    )
    assert (gateway["mountPath"], vllm["mountPath"] + "/" + gateway["subPath"]) == (place, place)
    assert vllm["readOnly"] is True
    users = {CONTAINERS[name][1]["securityContext"]["runAsUser"] for name in ("gateway/gateway", "vllm/vllm")}
    assert users == {10001} == {int(SERVICES[name]["user"].split(":")[0]) for name in ("gateway", "vllm-0")}


def test_the_registry_holds_and_its_replicas_are_those_that_are_deployed() -> None:
    path = DEPLOY / "config/registry.yaml"
    command = [sys.executable, "-m", "router_service.cli", "registry", "check", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    vllm = next(b for b in load_strict(path.read_text(), RegistryFile, str(path)).backends if b.kind == "vllm")
    count = of_kind("StatefulSet")["vllm"]["spec"]["replicas"]
    assert list(vllm.urls) == [f"http://vllm-{number}.vllm:8000/v1" for number in range(count)]
    aliases = [SERVICES[f"vllm-{number}"]["networks"]["inference"]["aliases"] for number in range(count)]
    assert aliases == [[f"vllm-{number}.vllm"] for number in range(count)]


@pytest.mark.parametrize("where", ["compose", "kubernetes"])
def test_vllm_is_started_as_the_registry_says(where: str) -> None:
    given = SERVICES["vllm-0"]["command"] if where == "compose" else CONTAINERS["vllm/vllm"][0]["args"]
    options = dict(option.removeprefix("--").split("=") for option in given if "=" in option)
    registry = load_strict((DEPLOY / "config/registry.yaml").read_text(), RegistryFile, "registry.yaml")
    (backend,) = [backend for backend in registry.backends if backend.kind == "vllm"]
    served = [model.model_name for model in registry.models if model.backend == backend.name]
    assert served == [options["served-model-name"]] and "--enable-lora" in given
    assert backend.max_loras == int(options["max-loras"])
    assert (backend.max_cpu_loras or 0) == int(options["max-cpu-loras"])


def test_the_policies_that_are_mounted_hold() -> None:
    (maps,) = load(ROOT / "policies/kustomization.yaml")["configMapGenerator"]
    assert {path.name for path in (ROOT / "policies").glob("*.yaml")} >= set(maps["files"])
    load_policies(ROOT / "policies")


def test_the_image_runs_as_nobody_and_brings_no_torch() -> None:
    text = TEXTS[DEPLOY / "Dockerfile"]
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE) and "HEALTHCHECK" in text
    assert 'ARG EXTRAS=""' in text and "torch" not in "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith("#")
    )
    copied = {name for line in re.findall(r"^COPY ((?!--from).+) \S+$", text, re.MULTILINE) for name in line.split()}
    kept = set(re.findall(r"^!(\S+)", TEXTS[DEPLOY / "Dockerfile.dockerignore"], re.MULTILINE))
    assert copied == kept and all((ROOT / name).exists() for name in copied)


# Every example.


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path not in GUARDED], ids=lambda path: path.name)
def test_vllm_listens_on_loopback_in_every_example(path: Path) -> None:
    for command in commands_of_vllm(path):
        assert re.search(r"--host[ =]127\.0\.0\.1\b", command), command


def test_examples_are_found() -> None:
    assert len(list(commands_of_vllm(ROOT / "registry.sample.yaml"))) >= 4
    assert len(list(commands_of_vllm(ROOT / "registry.yaml"))) >= 1


def test_no_private_host_is_named() -> None:
    for path, text in TEXTS.items():
        hosts = set(re.findall(r"https?://([\w.-]+)", text))
        assert hosts <= {"127.0.0.1", "api.openai.com", "prometheus", "vllm-0.vllm", "vllm-1.vllm"}, path
