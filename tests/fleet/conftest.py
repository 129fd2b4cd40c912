"""gRPC is told to be quiet by the package of the fleet, if nobody imports it before."""

import dagrid.execution.backends.cluster  # noqa: F401
