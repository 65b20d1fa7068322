"""The log and the catalog on PostgreSQL, and the embedded server."""
