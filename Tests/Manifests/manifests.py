# Checks the manifests of deploy/kubernetes against the schemas that Kubernetes publishes, and by rules of the project
# that schemas do not have. Prints a line per fault.
#
#   manifests.py DIRECTORY
import json
import os
import sys

import jsonschema
import yaml

SCHEMAS = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "schemas.json")))
DEFINITIONS = {
    ("apps/v1", "Deployment"): "io.k8s.api.apps.v1.Deployment",
    ("networking.k8s.io/v1", "NetworkPolicy"): "io.k8s.api.networking.v1.NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "io.k8s.api.policy.v1.PodDisruptionBudget",
    ("monitoring.coreos.com/v1", "PodMonitor"): "com.coreos.monitoring.v1.PodMonitor",
}
LABELS = {"app.kubernetes.io/name": "secrets-bridge-worker"}
faults = []


def fault(place, text):
    faults.append(f"{place}: {text}")


def expect(condition, place, text):
    if not condition:
        fault(place, text)


def check_schema(place, document):
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind not in DEFINITIONS:
        return fault(place, f"no schema for {kind}")
    schema = {"$ref": f"#/$defs/{DEFINITIONS[kind]}", "$defs": SCHEMAS["$defs"]}
    for error in jsonschema.Draft201909Validator(schema).iter_errors(document):
        fault(place, f"{'.'.join(map(str, error.absolute_path))}: {error.message}")


def check_container(place, pod, container):
    """What the schema leaves open: who runs it, with which limits, and that its probes are served."""
    context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
    wanted = {
        "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }
    for name, value in wanted.items():
        expect(context.get(name) == value, place, f"securityContext.{name} is {context.get(name)}")
    resources = container.get("resources", {})
    for part, name in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")]:
        expect(name in resources.get(part, {}), place, f"no resources.{part}.{name}")
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
    expect(ports == {"probes": 8091}, place, f"the ports are {ports}")
    for kind, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]:
        # A sidecar's readiness would be that of its whole pod.
        if kind not in container and kind == "readinessProbe" and container.get("restartPolicy") == "Always":
            continue
        asked = container.get(kind, {}).get("httpGet", {})
        expect(asked.get("path") == path, place, f"{kind} asks for {asked.get('path')}")
        expect(asked.get("port") in ("probes", 8091), place, f"{kind} asks at {asked.get('port')}")
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    expect(mounted <= volumes, place, f"no volume {mounted - volumes}")
    for variable in container.get("env", []):
        name, value = variable["name"], variable.get("value", "")
        if not name.endswith("_FILE"):
            continue
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        expect(any(value.startswith(path + "/") for path in paths), place, f"{name} is in no volume")
    expect("command" not in container and "args" not in container, place, "the image's entry point is replaced")


def worker_of(place, pod):
    found = [one for one in pod.get("containers", []) + pod.get("initContainers", []) if one["name"] == "worker"]
    expect(len(found) == 1, place, "no container named worker")
    for container in found:
        check_container(place, pod, container)


def check_deployment(place, document):
    check_schema(place, document)
    template = document["spec"]["template"]
    labels = document["spec"]["selector"]["matchLabels"]
    expect(labels.items() <= template["metadata"].get("labels", {}).items(), place, "it does not select its own pods")
    worker_of(place, template["spec"])


def selected(document):
    spec = document["spec"]
    return (spec.get("selector") or spec.get("podSelector") or {}).get("matchLabels")


def with_sidecar(patch):
    """A Deployment of another container, with the patch applied as kubectl does: lists are merged by name."""
    pod = {"containers": [{"name": "api", "image": "api"}], **patch["spec"]["template"]["spec"]}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "api"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}},
    }


# What the chart takes of its values for the worker, with the chart's defaults for those that matter here.
CHART = {
    "env": "production", "global": {"imageRegistry": "ghcr.io"}, "secrets": {"existingSecret": "secrets-bridge-env"},
    "worker": {
        "enabled": True, "replicaCount": 1, "probesPort": 8091, "bindAddress": "0.0.0.0",
        "image": {"repository": "secrets-bridge/worker", "tag": "", "pullPolicy": "IfNotPresent"},
        "serviceAccount": {"create": True, "name": "", "automountServiceAccountToken": True},
        "config": {"logLevel": "info", "gitopsEnabled": False},
        "notifications": {"webhookUrl": "", "slackFormat": False},
        "podDisruptionBudget": {"enabled": False, "minAvailable": 1},
        "podSecurityContext": {
            "runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containerSecurityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"cpu": "500m", "memory": "256Mi"}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8091}},
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8091}},
    },
}


def merged(place, base, values):
    """The chart's values with those of a file; one that the chart does not have changes nothing, so it is a fault."""
    result = dict(base)
    for name, value in values.items():
        if name not in base:
            fault(place, f"the chart has no value {name}")
        elif isinstance(value, dict) and isinstance(base[name], dict):
            result[name] = merged(f"{place}: {name}", base[name], value)
        else:
            expect(isinstance(value, type(base[name])), place, f"{name} has another type than in the chart")
            result[name] = value
    return result


def rendered(values):
    """A Deployment of the shape that the chart makes: no command, all secrets as variables, no volumes."""
    worker = values["worker"]
    image = f"{values['global']['imageRegistry']}/{worker['image']['repository']}:{worker['image']['tag']}"
    variables = {
        "SB_WORKER_LOCAL_ADDR": f"{worker['bindAddress']}:{worker['probesPort']}", "SB_ENV": values["env"],
        "LOG_LEVEL": worker["config"]["logLevel"],
        "SB_WORKER_GITOPS_ENABLED": str(worker["config"]["gitopsEnabled"]).lower(),
        "SB_WORKER_WEBHOOK_SLACK_FORMAT": str(worker["notifications"]["slackFormat"]).lower(),
    }
    container = {
        "name": "worker", "image": image, "imagePullPolicy": worker["image"]["pullPolicy"],
        "securityContext": worker["containerSecurityContext"], "resources": worker["resources"],
        "ports": [{"name": "probes", "containerPort": worker["probesPort"], "protocol": "TCP"}],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "envFrom": [{"secretRef": {"name": values["secrets"]["existingSecret"]}}],
        "livenessProbe": worker["livenessProbe"], "readinessProbe": worker["readinessProbe"],
    }
    pod = {"securityContext": worker["podSecurityContext"], "containers": [container]}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "secrets-bridge-worker"},
        "spec": {
            "replicas": worker["replicaCount"], "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod}},
    }


def check_values(place, values):
    values = merged(place, CHART, values)
    document = rendered(values)
    check_deployment(place, document)
    container = document["spec"]["template"]["spec"]["containers"][0]
    expect(values["worker"]["image"]["tag"] not in ("", "latest"), place, "the image's tag is not a version")
    expect("/worker:" not in container["image"], place, "the image is the existing worker's")
    for variable in container["env"]:
        print(f"variable {variable['name']}={variable['value']}")


def check(directory):
    documents = {}
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name)) as file:
            found = list(yaml.safe_load_all(file))
        expect(len(found) == 1, name, "it has another number of documents than one")
        documents[name] = found[0]
    check_values("helm-values.yaml", documents.pop("helm-values.yaml"))
    check_deployment("sidecar.yaml", with_sidecar(documents.pop("sidecar.yaml")))
    kinds = {document["kind"] for document in documents.values()}
    expect(kinds == {kind for _, kind in DEFINITIONS}, directory, f"it has {kinds}")
    for name, document in documents.items():
        if document["kind"] == "Deployment":
            check_deployment(name, document)
            expect(document["spec"]["template"]["metadata"]["labels"] == LABELS, name, "its pods have other labels")
        else:
            check_schema(name, document)
            expect(selected(document) == LABELS, name, f"it selects {selected(document)}")


check(sys.argv[1])
for line in faults:
    print(f"fault {line}")
sys.exit(1 if faults else 0)
