"""Checks the Kubernetes manifests and the Helm chart of deploy/: checks.py (manifests | chart | same | rules) DEPLOY

manifests, chart: each object against the JSON schemas of Kubernetes, in the oldest and the newest version that deploy/ promises.
same: the chart with its defaults makes what the manifests are.
rules: prints the rules files of the ConfigMaps, as JSON.
"""

import json
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

deploy = Path(sys.argv[2])
CHART = str(deploy / "helm/larder")
VERSIONS = ["1.30", "1.37"]
# What the manifests take from a Secret that the operator makes.
DEFAULTS = {"secret": {"existing": "larder"}}
API = {"image": "my-api:1", "ports": [{"containerPort": 8000}], "startupProbe": {"tcpSocket": {"port": 8000}}}
# Each with every option that changes what is rendered.
VARIANTS = {
    "defaults": DEFAULTS,
    "secret": {
        "secret": {
            "adminToken": "a" * 20,
            "viewerToken": "v" * 20,
            "redisPassword": "0123",
            "storeSecret": "s" * 20,
        }
    },
    "single": {**DEFAULTS, "replicas": 1, "redis": {"url": ""}, "podDisruptionBudget": {"enabled": False}},
    "sidecar": {**DEFAULTS, "sidecar": {"enabled": True, "port": 8000, "container": API}},
    "everything": {
        **DEFAULTS,
        "image": {"repository": "example/larder", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "mine"}],
        "restartOnRulesChange": True,
        "env": [{"name": "RUST_BACKTRACE", "value": "1"}],
        "volumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/run/ca", "readOnly": True}],
        "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
        "podDisruptionBudget": {"enabled": True, "maxUnavailable": "34%"},
        "networkPolicy": {
            "clients": [{"podSelector": {"matchLabels": {"role": "web"}}}],
            "operators": [],
            "egress": [],
        },
        "podLabels": {"team": "shop"},
        "podAnnotations": {"note": "x"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "cache", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
    "no-policy": {**DEFAULTS, "networkPolicy": {"enabled": False}},
}
REFUSED = {
    "set secret.existing": {},
    "would invalidate nothing in the others": {**DEFAULTS, "redis": {"url": ""}},
    "sidecar.container.image": {**DEFAULTS, "sidecar": {"enabled": True}},
    "'replica' not allowed": {**DEFAULTS, "replica": 3},
    "/redis/url": {**DEFAULTS, "redis": {"url": "http://redis"}},
    "/upstream": {**DEFAULTS, "upstream": "api:8000"},
    "/secret/storeSecret": {"secret": {"adminToken": "a", "storeSecret": "short"}},
}


def manifests():
    for file in sorted((deploy / "kubernetes").glob("*.yaml")):
        if file.name != "kustomization.yaml":
            for document in yaml.safe_load_all(file.read_text()):
                yield file.name, document


def rendered(values):
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name="larder", namespace="shop")
    for name, text in files.items():
        if name.endswith("NOTES.txt"):
            assert text.strip(), "no notes"
        else:
            for document in yaml.safe_load_all(text):
                if document is not None:
                    yield name, document


def validate(objects):
    count = 0
    for name, document in objects:
        for version in VERSIONS:
            # Strict: no field that the schema does not know.
            kubernetes_validate.validate(document, version, strict=True)
        count += 1
    return count


def check_manifests():
    kustomization = yaml.safe_load((deploy / "kubernetes/kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        assert (deploy / "kubernetes" / name).exists(), name
    print(validate(manifests()), "objects")
    # Only a check that refuses something shows something.
    deployment = next(document for _, document in manifests() if document["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    try:
        validate([("", deployment)])
    except kubernetes_validate.ValidationError as error:
        assert "readynessProbe" in str(error), error
    else:
        raise AssertionError("an unknown field is not refused")


def check_chart():
    for message in helm_python.lint(CHART, values=DEFAULTS)["messages"]:
        # The chart has no icon.
        assert "icon is recommended" in message["error"], f"helm lint: {message}"
    count = sum(validate(rendered(values)) for values in VARIANTS.values())
    for expected, values in REFUSED.items():
        try:
            list(rendered(values))
        except helm_python.HelmError as error:
            assert expected in str(error), f"{expected!r} is not in: {error}"
        else:
            raise AssertionError(f"not refused: {values}")
    print(count, "objects of", len(VARIANTS), "variants")


def plain(value):
    """Without what only Helm adds, and without the order of lists."""
    only_helm = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in only_helm}
    if isinstance(value, list):
        return sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def check_same():
    def objects(all_of):
        return {(item["kind"], item["metadata"]["name"]): plain(item) for item in all_of}

    kustomization = yaml.safe_load((deploy / "kubernetes/kustomization.yaml").read_text())
    image = kustomization["images"][0]
    by_hand = objects(
        document
        for name, document in manifests()
        if name in kustomization["resources"] and name != "redis.yaml" and document["kind"] != "ConfigMap"
    )
    by_helm = objects(document for _, document in rendered(DEFAULTS) if document["kind"] != "ConfigMap")
    for item in by_hand.values():
        for container in item["spec"].get("template", {}).get("spec", {}).get("containers", []):
            container["image"] = f"{image['newName']}:{image['newTag']}"
            # The chart cannot know which of them the Secret has.
            for variable in container["env"]:
                if variable["name"] in ("REDIS_PASSWORD", "LARDER_SECRET"):
                    variable["valueFrom"]["secretKeyRef"]["optional"] = True
    assert by_hand.keys() == by_helm.keys(), f"{by_hand.keys()} {by_helm.keys()}"
    for key, item in by_hand.items():
        one, other = (json.dumps(side, indent=1, sort_keys=True) for side in (item, by_helm[key]))
        assert one == other, f"{key}\nmanifest: {one}\nchart: {other}"
    print(len(by_hand), "objects are the same")


def print_rules():
    files = {name: document["data"]["rules.toml"] for name, document in manifests() if document["kind"] == "ConfigMap"}
    chart = (document for _, document in rendered(DEFAULTS) if document["kind"] == "ConfigMap")
    files |= {"chart": document["data"]["rules.toml"] for document in chart}
    print(json.dumps(files))


{"manifests": check_manifests, "chart": check_chart, "same": check_same, "rules": print_rules}[sys.argv[1]]()
