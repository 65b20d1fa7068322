"""From the log to a published snapshot."""
