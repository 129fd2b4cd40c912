"""The files for Docker and Kubernetes: of the right form, equal to the published examples, with commands that are ours.

No engine is at hand, so the form is held against schemas of the parts that are used.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from dagrid.cli.app import group
from dagrid.cli.options import without_values
from dagrid.config import Config

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8")))

# The examples of the document, with the name changed; what ours have beside that are keys, tokens, probes and volumes.
PUBLISHED = """
services:
  dagrid-main:
    image: dagrid:latest
    command: start-all --host=0.0.0.0
    ports: ["8080:8080", "50055:50055"]
    volumes: ["./dags:/etc/dagrid/dags", "./data:/var/lib/dagrid"]
  worker-gpu:
    image: dagrid:latest
    command: >
      worker
      --worker.labels=gpu=true,cuda=11.8
      --worker.coordinator-host=dagrid-main
      --worker.coordinator-port=50055
    deploy: {replicas: 2, resources: {reservations: {devices: [{capabilities: [gpu]}]}}}
  worker-cpu:
    image: dagrid:latest
    command: >
      worker
      --worker.labels=cpu-only=true,region=us-east-1
      --worker.coordinator-host=dagrid-main
      --worker.coordinator-port=50055
    deploy: {replicas: 5}
"""
DEPLOYMENTS = {
    "dagrid-coordinator": (1, ["dagrid", "start-all"], ["--host=0.0.0.0"]),
    "dagrid-worker-gpu": (
        3,
        ["dagrid", "worker"],
        [
            "--worker.labels=gpu=true,node-type=gpu-node",
            "--worker.coordinator-host=dagrid-coordinator",
            "--worker.coordinator-port=50055",
        ],
    ),
    "dagrid-worker-cpu": (
        10,
        ["dagrid", "worker"],
        [
            "--worker.labels=cpu-optimized=true,region=us-east-1",
            "--worker.coordinator-host=dagrid-coordinator",
            "--worker.coordinator-port=50055",
        ],
    ),
}

TEXT = {"type": "string"}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$"}
LABELS = {"type": "object", "additionalProperties": TEXT}


def closed(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


def each(items):
    return {"type": "array", "items": items, "minItems": 1}


PORT_NUMBER = {"type": "integer", "minimum": 1, "maximum": 65_535}
SERVICE_OF_COMPOSE = closed(
    ["image", "command"],
    image=TEXT,
    build=closed(["context"], context=TEXT, dockerfile=TEXT),
    command=TEXT,
    ports=each({"type": "string", "pattern": r"^\d+:\d+$"}),
    volumes=each({"type": "string", "pattern": r"^[./][^:]*:/[^:]+$"}),
    environment=LABELS,
    stop_grace_period={"type": "string", "pattern": r"^\d+[ms]$"},
    deploy=closed(
        ["replicas"],
        replicas={"type": "integer", "minimum": 1},
        resources=closed(
            ["reservations"],
            reservations=closed(["devices"], devices=each(closed(["capabilities"], capabilities=each(TEXT)))),
        ),
    ),
)
COMPOSE_FORM = closed(["services"], services={"type": "object", "additionalProperties": SERVICE_OF_COMPOSE})
PROBE = closed(["httpGet"], httpGet=closed(["path", "port"], path={"type": "string", "pattern": "^/"}, port=NAME))
CONTAINER = closed(
    ["name", "image"],
    name=NAME,
    image=TEXT,
    command=each(TEXT),
    args=each(TEXT),
    ports=each(closed(["containerPort"], containerPort=PORT_NUMBER, name=NAME)),
    env=each(
        closed(
            ["name", "valueFrom"],
            name=TEXT,
            valueFrom=closed(
                ["secretKeyRef"],
                secretKeyRef=closed(["name", "key"], name=NAME, key=TEXT, optional={"type": "boolean"}),
            ),
        )
    ),
    readinessProbe=PROBE,
    livenessProbe=PROBE,
    volumeMounts=each(closed(["name", "mountPath"], name=NAME, mountPath=TEXT)),
    resources=closed(["limits"], limits={"type": "object", "additionalProperties": {"type": ["integer", "string"]}}),
)
METADATA = closed(["name"], name=NAME)
FORMS = {
    ("apps/v1", "Deployment"): closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion=TEXT,
        kind=TEXT,
        metadata=METADATA,
        spec=closed(
            ["replicas", "selector", "template"],
            replicas={"type": "integer", "minimum": 1},
            strategy=closed(["type"], type={"enum": ["Recreate", "RollingUpdate"]}),
            selector=closed(["matchLabels"], matchLabels=LABELS),
            template=closed(
                ["metadata", "spec"],
                metadata=closed(["labels"], labels=LABELS),
                spec=closed(
                    ["containers"],
                    terminationGracePeriodSeconds={"type": "integer"},
                    securityContext=closed(["fsGroup"], fsGroup={"type": "integer"}),
                    containers=each(CONTAINER),
                    volumes=each(
                        closed(
                            ["name", "persistentVolumeClaim"],
                            name=NAME,
                            persistentVolumeClaim=closed(["claimName"], claimName=NAME),
                        )
                    ),
                ),
            ),
        ),
    ),
    ("v1", "Service"): closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion=TEXT,
        kind=TEXT,
        metadata=METADATA,
        spec=closed(
            ["selector", "ports"],
            selector=LABELS,
            ports=each(closed(["port"], name=NAME, port=PORT_NUMBER, targetPort={"type": ["string", "integer"]})),
        ),
    ),
    ("v1", "PersistentVolumeClaim"): closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion=TEXT,
        kind=TEXT,
        metadata=METADATA,
        spec=closed(
            ["accessModes", "resources"],
            accessModes=each({"enum": ["ReadWriteOnce", "ReadWriteMany"]}),
            resources=closed(["requests"], requests=LABELS),
        ),
    ),
}


def named(kind):
    return {one["metadata"]["name"]: one["spec"] for one in KUBERNETES if one["kind"] == kind}


def commands():
    """Yield every command of the files, without the name of the program."""
    for name, service in COMPOSE["services"].items():
        yield pytest.param(shlex.split(service["command"]), id=f"compose-{name}")
    for name, spec in named("Deployment").items():
        for container in spec["template"]["spec"]["containers"]:
            program, *words = container["command"]
            assert program == "dagrid"
            yield pytest.param([*words, *container["args"]], id=f"kubernetes-{name}")
    (words,) = re.findall(r"^CMD \[(.*)\]$", (DEPLOY / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    yield pytest.param(yaml.safe_load(f"[{words}]"), id="dockerfile")


def within(part, whole):
    """Whether all that a part says stands in the whole."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and within(one, whole[key]) for key, one in part.items())
    return part == whole


def test_compose_has_the_form_and_what_was_published():
    """Two GPU workers and five others beside the main one."""
    jsonschema.validate(COMPOSE, COMPOSE_FORM)
    assert within(yaml.safe_load(PUBLISHED), COMPOSE)


def test_kubernetes_has_the_form_and_what_was_published():
    """Three Deployments, and the Service that the workers call."""
    for document in KUBERNETES:
        jsonschema.validate(document, FORMS[document["apiVersion"], document["kind"]])
    deployments = named("Deployment")
    for name, (replicas, command, args) in DEPLOYMENTS.items():
        spec = deployments[name]
        (container,) = spec["template"]["spec"]["containers"]
        assert (spec["replicas"], container["command"], container["args"]) == (replicas, command, args)
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"] == {"app": name}
    assert deployments.keys() == DEPLOYMENTS.keys()
    service = named("Service")["dagrid-coordinator"]
    (main,) = deployments["dagrid-coordinator"]["template"]["spec"]["containers"]
    assert service["selector"] == {"app": "dagrid-coordinator"}
    ports = {one["name"]: one["containerPort"] for one in main["ports"]}
    assert {one["targetPort"]: one["port"] for one in service["ports"]} == ports == {"web": 8080, "grpc": 50_055}
    assert {main["readinessProbe"]["httpGet"]["path"], main["livenessProbe"]["httpGet"]["path"]} == {
        "/readyz",
        "/healthz",
    }


def test_workers_are_given_time_to_end_what_runs():
    """Ten seconds of grace, or thirty, and what a worker finishes after its SIGTERM is killed after all."""
    workers = [one for name, one in COMPOSE["services"].items() if name.startswith("worker")]
    assert [one["stop_grace_period"] for one in workers] == ["10m", "10m"]
    pods = [spec["template"]["spec"] for name, spec in named("Deployment").items() if "worker" in name]
    assert [one["terminationGracePeriodSeconds"] for one in pods] == [600, 600]


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_is_one_of_ours(words):
    """The real parser takes it, and every value is one that its setting may have."""
    name, *arguments = without_values(words)
    top = group()
    with top.make_context("dagrid", [name], resilient_parsing=True) as above:
        command = top.get_command(above, name)
        assert command is not None
        with command.make_context(name, list(arguments), parent=above) as context:
            said = {
                key: value
                for key, value in context.params.items()
                if value not in (None, ()) and key.startswith("set_")
            }
    assert said
    config = Config({key.removeprefix("set_").replace("__", "."): ("flag", value) for key, value in said.items()}, {})
    for key in said:
        config.value(key.removeprefix("set_").replace("__", "."))


def test_the_image_has_what_the_files_count_on():
    """Its folders are those that are mounted, its ports those that are opened, and its program is the command."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert 'ENTRYPOINT ["dagrid"]' in text
    assert "DAGRID_HOME=/var/lib/dagrid DAGRID_PATHS_DAGS_DIR=/etc/dagrid/dags" in text
    assert "EXPOSE 8080 50055" in text
    assert "USER dagrid" in text
    assert "://" not in text, "addresses of registries are the builder's"
