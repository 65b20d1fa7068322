"""DuckMesh: a self-hosted plane around DuckDB with many writers and strict read-your-writes."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckmesh.app.library import Mesh
    from duckmesh.app.settings import Settings

__version__ = "0.1.0"
__all__ = ["__version__", "open"]


def open(  # noqa: A001 - reads as `duckmesh.open`, like `zarr.open` and `dbm.open`
    location: str | Path = "memory", *, tenant: str = "default", settings: "Settings | None" = None
) -> "AbstractAsyncContextManager[Mesh]":
    """Open DuckMesh in this process: ``async with duckmesh.open("/var/lib/app/mesh") as mesh: …``.

    ``location`` is ``"memory"``, where nothing outlives the process, or a folder with the embedded PostgreSQL and
    local objects, which one process opens at a time. With ``settings`` it is the Postgres and the object store that
    they name. The tenant is made when it is not there. Await it in the main thread for a folder, since the embedded
    server must not outlive it.
    """
    from duckmesh.app.library import open_mesh  # noqa: PLC0415 - importing the package stays cheap

    return open_mesh(location, tenant=tenant, settings=settings)
