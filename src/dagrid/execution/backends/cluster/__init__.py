"""The fleet: a coordinator, its workers, and the runs that use them."""

import os

# gRPC writes a line to stderr for each handshake that fails, for 5,000 at once as well; it asks for this when it is imported first.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
