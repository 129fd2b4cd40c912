"""Use an installed dagrid as a stranger would, with no extra installed: every public name, every backend, a run."""

import importlib.metadata
import importlib.resources

import dagrid

distribution = importlib.metadata.distribution("dagrid")
assert not str(dagrid.__file__).endswith("src/dagrid/__init__.py"), f"not the wheel: {dagrid.__file__}"
assert importlib.resources.files("dagrid").joinpath("py.typed").is_file(), "py.typed is not in the wheel"
for name in dagrid.__all__:
    getattr(dagrid, name)
backends = distribution.entry_points.select(group="dagrid.backends")
assert backends, "the wheel declares no backend"
for entry in backends:
    entry.load()
assert "</html>" in dagrid.DAG([]).run().to_html(), "the page of a run is not whole"
names = ", ".join(sorted(backends.names))
print(f"dagrid {distribution.version}: {len(dagrid.__all__)} public names; backends: {names}")
