"""A worker of the fleet: it dials its coordinator, performs what it is given by local backends, and keeps what it has to report."""
