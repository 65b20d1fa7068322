"""The query engine on DuckDB."""
