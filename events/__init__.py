"""The only Redis client: jobs, notices, the embedded server."""
