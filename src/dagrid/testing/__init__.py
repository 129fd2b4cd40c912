"""What the author of a backend or a store needs to prove that it works: a host that is no engine, and the suites that every
backend, every store and every place for values passes.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:
    # So that a failed assertion of the suite shows its values, as in anybody's own tests.
    sys.modules["pytest"].register_assert_rewrite(
        "dagrid.testing.artifacts_conformance",
        "dagrid.testing.conformance",
        "dagrid.testing.crowd",
        "dagrid.testing.engine_conformance",
        "dagrid.testing.store_conformance",
        "dagrid.testing.store_model",
    )

from dagrid.testing.artifacts_conformance import ArtifactsConformance
from dagrid.testing.conformance import BackendConformance
from dagrid.testing.engine_conformance import EngineConformance
from dagrid.testing.gate import Gate, Visit
from dagrid.testing.probe import Probe, ProbeOutcome
from dagrid.testing.store_conformance import StoreConformance
from dagrid.testing.store_model import StoreModel

__all__ = [
    "ArtifactsConformance",
    "BackendConformance",
    "EngineConformance",
    "Gate",
    "Probe",
    "ProbeOutcome",
    "StoreConformance",
    "StoreModel",
    "Visit",
]
