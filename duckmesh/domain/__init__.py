"""The rules of DuckMesh, pure: attrs and the standard library only."""
