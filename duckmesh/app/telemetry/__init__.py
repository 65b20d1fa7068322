"""Logs, traces and metrics: what the people on call see."""
