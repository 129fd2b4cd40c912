"""Use an installed dagrid as a stranger would, with no extra installed: every public name, every backend, a run."""

import importlib.metadata
import importlib.resources
import subprocess
import sys
import tempfile
from pathlib import Path

import dagrid
from dagrid.stores.sqlite import SQLiteStore

distribution = importlib.metadata.distribution("dagrid")
assert not str(dagrid.__file__).endswith("src/dagrid/__init__.py"), f"not the wheel: {dagrid.__file__}"
assert importlib.resources.files("dagrid").joinpath("py.typed").is_file(), "py.typed is not in the wheel"
for name in dagrid.__all__:
    getattr(dagrid, name)
backends = distribution.entry_points.select(group="dagrid.backends")
assert backends, "the wheel declares no backend"
extras = {*distribution.metadata.get_all("Provides-Extra", ()), "grpc", "grpcs"}  # those two are of the extra `cluster`
for entry in backends:
    if entry.name not in extras:
        entry.load()
assert "</html>" in dagrid.DAG([]).run().to_html(), "the page of a run is not whole"
with tempfile.TemporaryDirectory() as folder, SQLiteStore(Path(folder) / "runs.db") as store:
    assert store.append("run", store.create("run"), 0, [b"fact"]) == 1, "the SQL of the store is not in the wheel"
command = subprocess.run([sys.executable, "-I", "-m", "dagrid", "version"], capture_output=True, text=True, check=False)
assert "pip install 'dagrid[cli]'" in command.stderr, "the command does not say what it needs"
assert importlib.resources.files("dagrid.execution.report").joinpath("graph.css").is_file(), (
    "a style is not in the wheel"
)
names = ", ".join(sorted(backends.names))
print(f"dagrid {distribution.version}: {len(dagrid.__all__)} public names; backends: {names}")
