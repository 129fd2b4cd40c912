"""gRPC is told to be quiet by the package of the fleet, if that is there first."""

import dagrid.execution.backends.cluster  # noqa: F401
