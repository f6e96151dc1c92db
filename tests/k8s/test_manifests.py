"""Claims about each overlay, with any component: valid, and its parts agree with each other."""

import copy
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import (
    K8S,
    OVERLAYS,
    PROJECT,
    groups,
    of_kind,
    pods,
    ray_service,
    render,
    selects,
    serve_config,
)
from ray.serve._private.haproxy import HAProxyConfig

CRDS = PROJECT.parent / "shared/crds"
VERSIONS = ("1.27", kubernetes_validate.latest_version())
NAMESPACE = yaml.safe_load((K8S / "namespace.yaml").read_text(encoding="utf-8"))
METRICS_PORT = 8080  # KubeRay starts Ray with it


def is_custom(each):
    group = each["apiVersion"].partition("/")[0]
    return "." in group and not group.endswith("k8s.io")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_for_kubernetes(any_objects, version):
    for each in any_objects:
        if not is_custom(each):
            kubernetes_validate.validate(each, version, strict=True)
    for template in pods(any_objects).values():  # those in custom objects too
        pod = {"apiVersion": "v1", "kind": "Pod"} | copy.deepcopy(template)
        pod["metadata"]["name"] = "some"
        kubernetes_validate.validate(pod, version, strict=True)


def test_an_unknown_key_is_no_valid_object():
    (account,) = of_kind(render("cpu"), "ServiceAccount")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(account | {"automount": False}, VERSIONS[0], strict=True)


def strict(schema):
    """A CRD's schema as jsonschema reads it, with keys that it does not name refused."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(part) for key, part in schema.items() if key != "format"}
    if isinstance(made.get("pattern"), str):
        made["pattern"] = made["pattern"].replace("^(?i)", "(?i)^")  # Go takes flags anywhere
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    named = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made["additionalProperties"] = False
    return made


def definition(kind):
    files = list(CRDS.glob(f"*_{kind.lower()}s.yaml"))
    if not files:
        pytest.skip(f"the definition of {kind} is not in {CRDS}")
    (file,) = files
    crd = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {v["name"]: v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"]}


@pytest.mark.long
@pytest.mark.parametrize("kind", ["RayService", "PodMonitor", "PrometheusRule"])
def test_every_custom_object_is_valid_for_its_definition(kind):
    versions = definition(kind)
    for overlay in OVERLAYS:
        objects = render(overlay, *("redis", "incremental-upgrade", "monitoring", "models"))
        (each,) = of_kind(objects, kind)
        schema = strict(versions[each["apiVersion"].partition("/")[2]])
        schema["properties"]["metadata"] = {"type": "object"}
        validator = jsonschema.Draft202012Validator(schema)
        validator.validate(each)
        with pytest.raises(jsonschema.ValidationError, match="unknown"):
            validator.validate(each | {"spec": each["spec"] | {"unknown": 1}})


def test_every_custom_kind_is_among_those():
    objects = render("cpu", *(path.name for path in (K8S / "components").iterdir()))
    kinds = {each["kind"] for each in objects if is_custom(each)}
    assert kinds == {"RayService", "PodMonitor", "PrometheusRule"}


def test_everything_is_in_the_namespace_and_has_a_name_of_its_own(any_objects):
    names = [(each["kind"], each["metadata"]["name"]) for each in any_objects]
    assert len(set(names)) == len(names)
    for each in any_objects:
        assert each["kind"] != "Namespace"  # it would be deleted before what is in it
        assert each["metadata"]["namespace"] == NAMESPACE["metadata"]["name"]


def test_every_pod_meets_the_restricted_standard(any_objects):
    assert NAMESPACE["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    options = ray_service(any_objects)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    for name, pod in pods(any_objects).items():
        spec = pod["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*spec["containers"], {"name": "autoscaler"} | options):
            restricted = container["securityContext"]
            assert restricted["allowPrivilegeEscalation"] is False, container["name"]
            assert restricted["capabilities"] == {"drop": ["ALL"]}
            assert restricted["readOnlyRootFilesystem"] is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "projected", "persistentVolumeClaim"}


def test_no_pod_is_given_a_token_but_the_autoscaler(any_objects):
    (account,) = of_kind(any_objects, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    for name, pod in pods(any_objects).items():
        assert pod["spec"]["automountServiceAccountToken"] is False
        if name != "head":  # whose account KubeRay makes
            assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
        mounts = {m["name"] for c in pod["spec"]["containers"] for m in c["volumeMounts"]}
        assert "api-access" not in mounts
    options = ray_service(any_objects)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert "api-access" in {mount["name"] for mount in options["volumeMounts"]}


def test_what_pods_refer_to_is_there(any_objects):
    config_maps = {each["metadata"]["name"] for each in of_kind(any_objects, "ConfigMap")}
    claims = {c["metadata"]["name"] for c in of_kind(any_objects, "PersistentVolumeClaim")}
    for pod in pods(any_objects).values():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for volume in pod["spec"].get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
        for container in pod["spec"]["containers"]:
            made = {"data"} if container["name"] == "redis" else set()  # by its claim template
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes | made
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in config_maps


def test_selectors_select_what_they_are_for(any_objects):
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(any_objects).items()}
    gateway = {"gateway.networking.k8s.io/gateway-name": "mlc-gateway"}  # made by its controller
    database = {"app.kubernetes.io/instance": "mlc-postgres"}  # the shop's own
    for each in of_kind(any_objects, "PodDisruptionBudget"):
        selector = each["spec"]["selector"]
        group = each["metadata"]["name"].removeprefix("mlc-")
        assert [name for name in labels if selects(selector, labels[name])] == [group]
    for each in of_kind(any_objects, "Deployment", "StatefulSet"):
        own = labels[each["metadata"]["name"]]
        assert [own] == [x for x in labels.values() if selects(each["spec"]["selector"], x)]
    for each in of_kind(any_objects, "NetworkPolicy"):
        peers = [
            peer["podSelector"]
            for way, side in (("ingress", "from"), ("egress", "to"))
            for rule in each["spec"].get(way, [])
            for peer in rule.get(side, [])
            if "podSelector" in peer and "namespaceSelector" not in peer
        ]
        for selector in (each["spec"]["podSelector"], *peers):
            there = (*labels.values(), gateway, database)
            assert any(selects(selector, pod) for pod in there), each["metadata"]
    for group in groups(any_objects).values():
        for spread in group.pod["spec"].get("topologySpreadConstraints", []):
            found = [name for name in labels if selects(spread["labelSelector"], labels[name])]
            assert found == [group.name]


def test_kuberay_is_known_by_a_label_that_its_chart_and_its_kustomization_set(any_objects):
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(any_objects, "NetworkPolicy")}
    (rule,) = policies["mlc-head"]["ingress"]
    (peer,) = rule["from"]
    label = {"app.kubernetes.io/component": "kuberay-operator"}
    assert peer["podSelector"] == {"matchLabels": label}


def test_services_and_policies_name_ports_that_somebody_listens_on(any_objects):
    def ports(pod):
        containers = pod["spec"]["containers"]
        return {p["name"]: p["containerPort"] for c in containers for p in c.get("ports", [])}

    everywhere = pods(any_objects).values()
    for service in of_kind(any_objects, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        (pod,) = [pod for pod in everywhere if selects(selector, pod["metadata"]["labels"])]
        for port in service["spec"]["ports"]:
            assert ports(pod)[port["targetPort"]] == port["port"]
    for policy in of_kind(any_objects, "NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        for rule in policy["spec"].get("ingress", []):
            for pod in everywhere:
                if selects(selector, pod["metadata"]["labels"]):
                    asked = {port["port"] for port in rule.get("ports", [])}
                    assert asked <= set(ports(pod).values()), policy["metadata"]["name"]


def test_the_serve_port_is_the_one_serve_listens_on(any_objects):
    options = serve_config(any_objects)["http_options"]
    assert options["host"] == "0.0.0.0"
    for group in groups(any_objects).values():
        ports = {port["name"]: port["containerPort"] for port in group.container["ports"]}
        assert ports["serve"] == options["port"]  # on the head too: KubeRay looks there
        assert ports["metrics"] == METRICS_PORT
    policies = {p["metadata"]["name"]: p["spec"] for p in of_kind(any_objects, "NetworkPolicy")}
    for name in ("mlc-serve", "mlc-from-gateway", "mlc-from-locust"):
        if name in policies:
            ((rule,),) = [policies[name]["ingress"]]
            assert [port["port"] for port in rule["ports"]] == [options["port"]]


def test_workers_are_ready_when_haproxy_says_so(any_objects):
    for name, group in groups(any_objects).items():
        probe = group.container["readinessProbe"]
        path = HAProxyConfig.__dataclass_fields__["health_check_endpoint"].default
        says = {"path": "/api/gcs_healthz", "port": "dashboard"}
        assert probe["httpGet"] == (says if name == "head" else {"path": path, "port": "serve"})


def test_no_probe_is_left_to_an_older_kuberay_whose_own_need_wget(any_objects):
    for group in groups(any_objects).values():
        alive = group.container["livenessProbe"]["httpGet"]
        assert alive == {"path": "/api/local_raylet_healthz", "port": 52365}
        assert "readinessProbe" in group.container


def test_nothing_of_a_pod_is_open_to_everybody(any_objects):
    """By default nothing comes in; what does, comes from somebody named."""
    policies = of_kind(any_objects, "NetworkPolicy")
    assert any(p["spec"] == {"podSelector": {}, "policyTypes": ["Ingress"]} for p in policies)
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule.get("from") or policy["metadata"]["name"] == "mlc-gateway"
            if "ports" not in rule:  # all of them: among Ray's pods alone
                ray = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "mlc"}}}
                assert rule["from"] == [ray]


def test_metrics_are_scraped_from_every_ray_pod():
    objects = render("cpu", "monitoring")
    (monitor,) = of_kind(objects, "PodMonitor")
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(objects).items()}
    found = {name for name in labels if selects(monitor["spec"]["selector"], labels[name])}
    assert found == {"head", "front", "classifier"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"


def test_no_file_is_left_out():
    """A manifest that no kustomization names would be applied by nobody."""
    for file in K8S.rglob("*.yaml"):
        if file.name in {"kustomization.yaml", "namespace.yaml", "serve_config.patch.yaml"}:
            continue
        named = (file.parent / "kustomization.yaml").read_text(encoding="utf-8")
        assert file.name in named, Path(file).relative_to(K8S)
