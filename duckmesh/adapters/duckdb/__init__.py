"""The query engine on DuckDB."""

from duckmesh.adapters.duckdb.engine import DuckDbEngine

__all__ = ["DuckDbEngine"]
