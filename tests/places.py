"""Which backends the tests find everywhere, and which need an engine of their own."""

from __future__ import annotations

# They pass the suites in tests/engines and tests/fleet, on real servers.
ENGINES = frozenset({"ray", "dask", "celery", "ipyparallel", "grpc", "grpcs"})
