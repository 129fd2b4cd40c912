"""The fleet: a coordinator, its workers, and the runs that use them."""

import os

# gRPC writes a line to stderr for each handshake that fails, also for 5,000 at once. It looks here when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
