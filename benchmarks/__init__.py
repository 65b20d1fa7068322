"""Speed of DuckMesh over HTTP beside references measured in the same run; see ``benchmarks/README.md``."""
