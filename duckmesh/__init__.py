"""DuckMesh: a self-hosted plane around DuckDB with many writers and strict read-your-writes."""

__version__ = "0.1.0"
