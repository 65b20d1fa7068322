"""Who calls: tenants, API keys, and the principal of a request."""
