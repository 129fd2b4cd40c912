"""A worker of the fleet: it dials its coordinator, performs by local backends what it is given, and keeps what it has to say."""
