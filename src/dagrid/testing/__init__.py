"""What a backend's author needs to prove that it works: a host that is no engine, and the suite that every backend
passes.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:
    # So that a failed assertion of the suite shows its values, as in anybody's own tests.
    sys.modules["pytest"].register_assert_rewrite("dagrid.testing.conformance", "dagrid.testing.engine_conformance")

from dagrid.testing.conformance import BackendConformance
from dagrid.testing.engine_conformance import EngineConformance
from dagrid.testing.gate import Gate, Visit
from dagrid.testing.probe import Probe, ProbeOutcome

__all__ = ["BackendConformance", "EngineConformance", "Gate", "Probe", "ProbeOutcome", "Visit"]
