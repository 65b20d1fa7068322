"""Processes: one that serves some planes, and the supervisor that keeps all of them on one machine."""
