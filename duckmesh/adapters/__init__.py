"""Driven adapters, one folder each."""
