"""The fleet: a coordinator, its workers, and the runs that use them.

gRPC is imported here, for it looks once how much it is to say: of each handshake that fails it would write a line to stderr, of
5,000 at once as well, and of each call by a name for which the certificate is not. What is started from this process gets to see
nothing of that.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagrid.execution.backends.cluster.backend import ClusterBackend, SecureClusterBackend

__all__ = ["ClusterBackend", "SecureClusterBackend"]

_quiet = "GRPC_VERBOSITY" not in os.environ
if _quiet:
    os.environ["GRPC_VERBOSITY"] = "NONE"
import grpc  # noqa: E402, F401

if _quiet:
    del os.environ["GRPC_VERBOSITY"]


def __getattr__(name: str) -> Any:
    """Load the face of the fleet when somebody asks for it; a worker does not."""
    if name in __all__:
        return getattr(import_module("dagrid.execution.backends.cluster.backend"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
