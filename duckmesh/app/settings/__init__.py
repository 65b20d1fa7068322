"""The settings of a deployment: one tree of frozen values, read from profile, file and environment.

Later sources win: the defaults of the profile, the table ``[duckmesh]`` of a TOML file, ``DUCKMESH_*`` variables,
keywords of `load_settings`. A setting has one name everywhere: ``DUCKMESH_PORT`` is ``port`` in the file and as a
keyword. ``python -m duckmesh.app.settings > docs/settings.md`` writes the reference.
"""

from duckmesh.app.settings.describing import Description, describe, render
from duckmesh.app.settings.loading import load_settings
from duckmesh.app.settings.tree import (
    LOOPBACK_NAMES,
    MAX_CONSISTENCY_TIMEOUT_MS,
    PROFILES,
    ROLES,
    CoordinatorSettings,
    IngestSettings,
    ObjectStoreSettings,
    PostgresSettings,
    Profile,
    QuerySettings,
    Role,
    ServerSettings,
    Settings,
    TelemetrySettings,
)

__all__ = [
    "LOOPBACK_NAMES",
    "MAX_CONSISTENCY_TIMEOUT_MS",
    "PROFILES",
    "ROLES",
    "CoordinatorSettings",
    "Description",
    "IngestSettings",
    "ObjectStoreSettings",
    "PostgresSettings",
    "Profile",
    "QuerySettings",
    "Role",
    "ServerSettings",
    "Settings",
    "TelemetrySettings",
    "describe",
    "load_settings",
    "render",
]
