"""What happened to every sample: events, the append-only log, queries and the report."""
