"""The log and the catalog on PostgreSQL, and the embedded server.

What is exported here is imported when it is first used: a supervisor needs the embedded server at once, and neither
Arrow nor the rest before its children run.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duckmesh.adapters.postgres.bus import PostgresBus
    from duckmesh.adapters.postgres.catalog import PostgresCatalog
    from duckmesh.adapters.postgres.opening import open_bus, open_catalog

__all__ = ["PostgresBus", "PostgresCatalog", "open_bus", "open_catalog"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from duckmesh.adapters.postgres import opening  # noqa: PLC0415 - see above

    return getattr(opening, name)
