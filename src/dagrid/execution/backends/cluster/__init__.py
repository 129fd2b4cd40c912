"""The fleet: a coordinator, its workers, and the runs that use them.

gRPC is imported here, for it looks once how much it is to say: of each handshake that fails it would write a line to stderr, of
5,000 at once as well. What is started from this process gets to see nothing of that.
"""

import os

_quiet = "GRPC_VERBOSITY" not in os.environ
if _quiet:
    os.environ["GRPC_VERBOSITY"] = "ERROR"
import grpc  # noqa: E402, F401

if _quiet:
    del os.environ["GRPC_VERBOSITY"]
