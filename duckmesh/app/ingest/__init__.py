"""From a request to a durable write."""
