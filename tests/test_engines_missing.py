"""An engine that is not installed, or does not answer: said at once, the same way for each, without the engine's help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.places import ENGINES

PACKAGES = {
    "ray": "ray",
    "dask": "distributed",
    "celery": "celery",
    "ipyparallel": "ipyparallel",
    "grpc": "grpc",
    "grpcs": "grpc",
}
EXTRAS = {"grpc": "cluster", "grpcs": "cluster"}


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_the_command_that_installs_it(name: str) -> None:
    """It can be copied from the message as it stands; nothing has run, and other places still work."""
    program = f"""
import sys
sys.modules[{PACKAGES[name]!r}] = None
import dagrid
dag = dagrid.DAG([dagrid.Node("one", lambda: ran.append(1))])
ran = []
try:
    dag.run(backend="{name}")
except dagrid.errors.BackendNotInstalledError as error:
    print(error)
assert not ran
assert dag.run().succeeded == 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"Install it with: pip install 'dagrid[{EXTRAS.get(name, name)}]'")
    assert PACKAGES[name] in done.stdout
