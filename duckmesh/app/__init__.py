"""Use cases, settings, wiring, and the REST and command-line faces."""
