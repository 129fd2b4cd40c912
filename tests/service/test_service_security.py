"""The set-ups of the document with TLS, mutual TLS and a signing key, by the flags, variables and files that it shows.

A workflow that `dagrid start` runs uses the same workers, with the same papers.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dagrid.history import History
from tests.fleet.papers import Authority
from tests.service.processes import Fleet, free_port, until

FLOW = """
steps:
  - {name: far, command: 'echo far; echo bad >&2; pwd', output: WHERE, workerSelector: {gpu: "true"}}
  - {name: near, command: 'echo "$WHERE"', workerSelector: local}
"""


def dagrid(fleet, *arguments, env=None):
    """Run a command to its end, in a home of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DAGRID_")}
    return subprocess.run(
        [sys.executable, "-m", "dagrid", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=fleet.flows,
        env={**clean, "DAGRID_HOME": str(fleet.folder / "cli"), **(env or {})},
    )


def check(fleet, flags=(), env=None):
    """Run a workflow from the queue, and one by `dagrid start`."""
    run = fleet.enqueue(FLOW)
    assert fleet.ended(run) == "succeeded", fleet.coordinator.text
    started = dagrid(fleet, "start", "flow.yaml", f"--coordinator.port={fleet.port}", *flags, env=env)
    assert started.returncode == 0, started.stderr
    with History(fleet.folder / "cli") as history:
        folder = history.folder(history.find("flow").run)
    for step, said in (("far", "far\n"), ("near", "far")):
        text = (folder / f"{step}.out").read_text()
        assert text.startswith(said)
        assert "/gpu/home/worker/" in text
    assert (folder / "far.err").read_text() == "bad\n"
    return started


@pytest.fixture
def papers(tmp_path):
    return Authority(tmp_path / "papers")


@pytest.fixture
def fleet_of(tmp_path):
    """Start a fleet of one worker, and end it after the test."""
    made: list[Fleet] = []

    def start(flags=(), worker=(), env=None, worker_env=None):
        fleet = Fleet(tmp_path / f"fleet{len(made)}", ("coordinator", *flags), env)
        made.append(fleet)
        fleet.start()
        fleet.worker("gpu", "gpu=true", flags=worker, env=worker_env)
        return fleet.linked()

    yield start
    for fleet in made:
        fleet.close()


def test_plain(fleet_of):
    """Steps go to the worker, what they write comes back to who started them, and `dagrid exec` can do the same."""
    fleet = fleet_of()
    check(fleet)
    told = dagrid(fleet, "exec", f"--coordinator.port={fleet.port}", "--worker-label", "gpu=true", "--", "pwd")
    assert told.returncode == 0, told.stderr
    assert "/gpu/home/worker/" in told.stdout


def test_tls(fleet_of, papers):
    """The coordinator shows a certificate; who calls names who signed it."""
    certificate, key = papers.issue("server", "127.0.0.1")
    trust = (f"--worker.tls-ca={papers.file}",)
    fleet = fleet_of((f"--coordinator.tls-cert={certificate}", f"--coordinator.tls-key={key}"), trust)
    check(fleet, trust)
    other = fleet.worker("other", flags=(*trust, "--worker.coordinator-host=localhost"))
    other.told("is for another name")
    assert "ssl_transport" not in fleet.coordinator.text, "gRPC wrote a line for each try"


def test_mutual_tls(fleet_of, papers):
    """Both show one, as the document has it: with `--worker.insecure=false`."""
    certificate, key = papers.issue("server", "127.0.0.1")
    own, own_key = papers.issue("client", "worker")
    shown = (
        "--worker.insecure=false",
        f"--worker.tls-cert={own}",
        f"--worker.tls-key={own_key}",
        f"--worker.tls-ca={papers.file}",
    )
    fleet = fleet_of(
        (
            f"--coordinator.tls-cert={certificate}",
            f"--coordinator.tls-key={key}",
            f"--coordinator.tls-ca={papers.file}",
        ),
        shown,
    )
    check(fleet, shown)


def test_a_certificate_is_for_certain_labels(fleet_of, papers, tmp_path):
    """A file says which; another worker with a good certificate gets nothing of what is meant for those."""
    certificate, key = papers.issue("server", "127.0.0.1")
    own, own_key = papers.issue("client", "gpu.example")
    claims = tmp_path / "claims.yaml"
    claims.write_text("gpu.example: {ids: [gpu], labels: {gpu: 'true'}}\n")
    shown = (f"--worker.tls-cert={own}", f"--worker.tls-key={own_key}", f"--worker.tls-ca={papers.file}")
    tls = (
        f"--coordinator.tls-cert={certificate}",
        f"--coordinator.tls-key={key}",
        f"--coordinator.tls-ca={papers.file}",
    )
    fleet = fleet_of((*tls, f"--coordinator.tls-claims={claims}"), shown)
    check(fleet, shown)
    liar = fleet.worker("liar", "gpu=true", flags=shown)
    assert "not one for the id 'liar'" in liar.told("refuses").text
    claims.write_text("gpu.example: {label: {gpu: 'true'}}\n")
    told = dagrid(fleet, "coordinator", *tls, f"--coordinator.tls-claims={claims}")
    assert told.returncode == 2
    assert f"{claims}: " in told.stderr
    assert "label" in told.stderr
    told = dagrid(fleet, "coordinator", *tls[:2], f"--coordinator.tls-claims={claims}")
    assert told.returncode == 2


def test_one_file_says_where_the_coordinator_listens_and_how_it_is_called(fleet_of, papers, tmp_path):
    """The document's: it listens everywhere, and its certificate is for the name that workers call."""
    config = tmp_path / "config.yaml"
    for name, (certificate, key) in (
        ("", papers.issue("server", "127.0.0.1")),
        ("coordinatorHost: localhost", papers.issue("named", "localhost")),
    ):
        config.write_text(
            f"coordinator: {{host: 0.0.0.0, tls: {{certFile: {certificate}, keyFile: {key}}}}}\n"
            f"worker: {{tls: {{caFile: {papers.file}}}, {name}}}\n"
        )
        fleet = fleet_of((f"--config={config}",), (f"--config={config}",))
        check(fleet, (f"--config={config}",))
        told = dagrid(fleet, "exec", f"--config={config}", f"--coordinator.port={fleet.port}", "--", "pwd")
        assert "/gpu/home/worker/" in told.stdout, told.stderr


def test_a_graph_of_pythons_with_tls(fleet_of, papers, tmp_path):
    """Its process calls the coordinator as a worker of that machine would, by what the file of settings says."""
    certificate, key = papers.issue("server", "127.0.0.1")
    config = tmp_path / "main.yaml"
    config.write_text(
        f"coordinator: {{tls: {{certFile: {certificate}, keyFile: {key}}}, signingKey: a-key-of-a-test}}\n"
        f"worker: {{tls: {{caFile: {papers.file}}}}}\n"
    )
    env = {"DAGRID_COORDINATOR_SIGNING_KEY": "a-key-of-a-test"}
    fleet = fleet_of((f"--config={config}",), (f"--worker.tls-ca={papers.file}",), worker_env=env)
    (fleet.flows / "secure_flows.py").write_text(
        "import os\nfrom dagrid import dag, task\n@task\ndef where(): return os.getcwd()\n@dag\ndef flow(): return where()\n"
    )
    run = dagrid(fleet, "enqueue", "secure_flows:flow", env={"DAGRID_HOME": str(fleet.home)}).stdout.strip()
    assert fleet.ended(run) == "succeeded", (fleet.history.folder(run) / "run.log").read_text()


def test_a_signing_key(fleet_of, tmp_path):
    """On the command line it is warned about; workers and who starts runs have it from the environment, or from a file."""
    file = tmp_path / "key"
    file.write_text("your-secret-key\n")
    fleet = fleet_of(
        ("--coordinator.signing-key=your-secret-key",),
        (f"--coordinator.signing-key-file={file}",),
    )
    assert "sees what --coordinator.signing-key says" in fleet.coordinator.text
    assert "your-secret-key" not in fleet.coordinator.text
    env = {"DAGRID_COORDINATOR_SIGNING_KEY": "your-secret-key"}
    check(fleet, env=env)
    wrong = dagrid(
        fleet,
        "start",
        "flow.yaml",
        f"--coordinator.port={fleet.port}",
        env={"DAGRID_COORDINATOR_SIGNING_KEY": "another"},
    )
    assert wrong.returncode == 2
    assert "signing key" in wrong.stderr


def test_a_signing_key_is_the_same_wherever_it_stands(fleet_of, tmp_path):
    """A secret that comes from a file into the environment ends with a new line, which is no part of it; and where nothing came
    (`--coordinator.signing-key=$KEY`) a coordinator does not begin without one.
    """
    file = tmp_path / "key"
    file.write_text("your-secret-key\n")
    env = {"DAGRID_COORDINATOR_SIGNING_KEY": "your-secret-key\n"}
    fleet = fleet_of((f"--coordinator.signing-key-file={file}",), env=env, worker_env=env)
    check(fleet, (f"--coordinator.signing-key-file={file}",))
    for empty in ("", " "):
        told = dagrid(fleet, "coordinator", f"--coordinator.signing-key={empty}")
        assert told.returncode == 2
        assert "--coordinator.signing-key is empty" in told.stderr


def test_settings_from_a_file(fleet_of, tmp_path):
    """`config.yaml` of the document, with the name changed."""
    config = tmp_path / "worker.yaml"
    config.write_text(
        'worker:\n  id: "worker-gpu-01"\n  maxActiveRuns: 10\n  labels:\n    gpu: "true"\n    memory: "64G"\n'
    )
    main = tmp_path / "main.yaml"
    main.write_text(
        'coordinator:\n  signingKey: "your-secret-key"\nqueues:\n  config:\n    - {name: flow, maxConcurrency: 2}\n'
    )
    fleet = fleet_of(
        (f"--config={main}",), (f"--config={config}",), worker_env={"DAGRID_COORDINATOR_SIGNING_KEY": "your-secret-key"}
    )
    check(fleet, env={"DAGRID_COORDINATOR_SIGNING_KEY": "your-secret-key"})
    assert "memory=64G" in fleet.workers["gpu"].text or "gpu=true" in fleet.workers["gpu"].text


def test_secrets_are_on_no_disk_but_where_they_were(fleet_of):
    """However much else a run takes along, neither coordinator nor worker writes them down, and nobody else may look there."""
    fleet = fleet_of()
    (fleet.flows / "s.txt").write_text("hush-hush-hush")
    run = fleet.enqueue(
        f"secrets: [{{name: TOK, provider: file, key: s.txt}}]\nenv: [{{BIG: {'x' * 70_000}}}, {{LARGE: {'y' * 600_000}}}]\n"
        "steps: [{name: a, command: 'echo ${#TOK}'}]\n"
    )
    assert fleet.ended(run) == "succeeded", fleet.out(run, "a", "err")
    assert fleet.out(run, "a") == "14\n"
    worker = fleet.folder / "gpu" / "home" / "worker"
    until(lambda: not list(worker.glob("*/runs/*")), "the end of the run at the worker")
    found = [path for path in fleet.folder.rglob("*") if path.is_file() and b"hush-hush" in path.read_bytes()]
    assert found == [fleet.flows / "s.txt"]
    own = [path for home in ("main", "gpu") for path in (fleet.folder / home / "home").glob("*/*/contents/..")]
    assert len(own) == 2
    assert {path.stat().st_mode & 0o777 for path in own} == {0o700}


def test_a_worker_without_its_papers_does_not_begin(papers, tmp_path):
    """Nobody waits for a file that is not there; one that is renewed later is another matter."""
    fleet = Fleet(tmp_path / "fleet")
    own, own_key = papers.issue("client", "worker")
    for flags, why in (
        (
            (f"--worker.tls-cert={tmp_path}/none.crt", f"--worker.tls-key={own_key}"),
            "none.crt cannot be read: No such file",
        ),
        ((f"--worker.tls-cert={own}",), "A certificate and its private key go together"),
        ((f"--worker.tls-ca={own_key}",), "does not hold the certificates of authorities"),
    ):
        said = dagrid(fleet, "worker", *flags)
        assert said.returncode == 2
        assert why in said.stderr
        assert "It is tried again" not in said.stderr


def test_what_kubernetes_injects_is_no_port(fleet_of):
    """A Service whose name is that of our setting sets a variable that looks like it."""
    fleet = fleet_of(env={"DAGRID_COORDINATOR_PORT": "tcp://10.0.0.1:50055"})
    run = fleet.enqueue(FLOW)
    assert fleet.ended(run) == "succeeded"
    told = dagrid(fleet, "config", "coordinator.port", env={"DAGRID_COORDINATOR_PORT": "tcp://10.0.0.1:50055"})
    assert told.stdout == "50055\n"


def test_a_public_address_is_warned_about(tmp_path):
    """Who wrote it may have it; that everybody can read along is said, and that the API asks for a token."""
    fleet = Fleet(tmp_path, ("start-all", "--host=0.0.0.0", f"--port={free_port()}"))
    try:
        text = fleet.start().told("HTTP is answered").text
        assert "plain text at 0.0.0.0" in text
        assert "on this machine only" in text
    finally:
        fleet.close()
