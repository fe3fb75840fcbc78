"""HTTP over the Unix socket: server, peer, routes (one table), schema, stream, problems."""
