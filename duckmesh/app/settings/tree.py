"""The tree of settings: what there is, what it means, and what it may be.

The defaults of the classes are those of the profile ``dev``; `PROFILE_DEFAULTS` says where others differ.
"""

# ruff: noqa: RUF009
# The rule takes `setting` for a mutable default of a dataclass; it declares a field of an attrs class.

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from attrs import field, frozen
from typed_settings import Secret

from duckmesh.app.settings.kinds import (
    choice,
    choices,
    integer,
    number,
    path,
    refusal,
    secret,
    setting,
    switch,
    text,
    words,
)

Profile = Literal["dev", "test", "production"]
Role = Literal["api", "coordinator", "maintenance"]

PROFILES: Final[tuple[Profile, ...]] = ("dev", "test", "production")
ROLES: Final[tuple[Role, ...]] = ("api", "coordinator", "maintenance")
MAX_CONSISTENCY_TIMEOUT_MS: Final = 300_000
"""The longest that a request or a setting may let a caller wait for its write."""

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")

_MIB: Final = 1024 * 1024
_HOUR_MS: Final = 3_600_000

_DSN: Final = text(r"postgres(ql)?://.*", "a URL that begins with postgresql://")

PROFILE_DEFAULTS: Final[Mapping[Profile, Mapping[str, Any]]] = {
    "dev": {},
    "test": {
        "data_dir": Path("~/.local/share/duckmesh-test"),
        "port": 0,
        "postgres_pool_size": 4,
        "log_level": "warning",
        "log_format": "json",
    },
    "production": {
        "data_dir": Path("/var/lib/duckmesh"),
        "host": "0.0.0.0",  # noqa: S104 - a server of a network, with authentication on
        "log_format": "json",
    },
}
"""Where a profile's defaults differ from those in the classes, which are the ones of ``dev``."""


@frozen
class ServerSettings:
    """The HTTP server and who may call it."""

    host: str = setting(
        "DUCKMESH_HOST", text(r"\S+", "an address or host name"), default="127.0.0.1", help="Address to listen on."
    )
    port: int = setting(
        "DUCKMESH_PORT", integer(0, 65_535), default=8080, help="TCP port to listen on; 0 takes a free one."
    )
    auth: bool = setting(
        "DUCKMESH_AUTH",
        switch(),
        default=True,
        help="Whether callers need an API key. Off is for one machine: `Host` and `Origin` are checked instead.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        "DUCKMESH_ALLOWED_HOSTS",
        words(),
        default=(),
        help="Host names under which requests are answered, without port. Empty means any with authentication, and "
        "only those of this machine without.",
    )
    max_body_bytes: int = setting(
        "DUCKMESH_MAX_BODY_BYTES",
        integer(1024, 4096 * _MIB),
        default=64 * _MIB,
        help="Largest request body in bytes; a larger one answers 413.",
    )

    @property
    def host_names(self) -> frozenset[str] | None:
        """The names that a request's ``Host`` may have, without port and in lower case; None for any."""
        if self.allowed_hosts or not self.auth:
            return frozenset(name.lower() for name in self.allowed_hosts or LOOPBACK_NAMES)
        return None


@frozen
class PostgresSettings:
    """The database of the ingest log and the catalog."""

    dsn: Secret[str] | None = setting(
        "DUCKMESH_POSTGRES_DSN",
        secret(_DSN),
        default=None,
        help="Where Postgres is; without it an embedded one runs in the data directory.",
    )
    listen_dsn: Secret[str] | None = setting(
        "DUCKMESH_POSTGRES_LISTEN_DSN",
        secret(_DSN),
        default=None,
        help="A direct connection for notifications, when the other goes through a pooler, which loses them.",
    )
    pool_size: int = setting(
        "DUCKMESH_POSTGRES_POOL_SIZE",
        integer(2, 1000),
        default=10,
        help="Largest number of connections of one process, beside the one that listens.",
    )
    prepared_statements: bool = setting(
        "DUCKMESH_POSTGRES_PREPARED_STATEMENTS",
        switch(),
        default=True,
        help="Whether statements are prepared once a connection; turn it off behind a transaction pooler.",
    )


@frozen
class ObjectStoreSettings:
    """Where Parquet files are kept."""

    url: str | None = setting(
        "DUCKMESH_OBJECT_STORE_URL",
        text(r"s3://[^/\s]+(/\S*)?|file:///.*|memory://\S*", "s3://bucket/prefix, file:///absolute/path or memory://"),
        default=None,
        help="Root of all objects; without it the folder `objects` of the data directory.",
    )
    s3_endpoint: str | None = setting(
        "DUCKMESH_S3_ENDPOINT",
        text(r"https?://[^/\s]+/?", "http://host:port or https://host:port"),
        default=None,
        help="Server that speaks S3; without it Amazon's of the region.",
    )
    s3_region: str = setting(
        "DUCKMESH_S3_REGION", text(r"[\w-]+", "a region's name"), default="us-east-1", help="Region of the bucket."
    )
    s3_access_key_id: str | None = setting(
        "DUCKMESH_S3_ACCESS_KEY_ID",
        text(r"\S+", "a key id, together with DUCKMESH_S3_SECRET_ACCESS_KEY"),
        default=None,
        help="Key id for S3; without it the credentials of the machine's role are used.",
    )
    s3_secret_access_key: Secret[str] | None = setting(
        "DUCKMESH_S3_SECRET_ACCESS_KEY",
        secret(text(r"\S+", "a secret key, together with DUCKMESH_S3_ACCESS_KEY_ID")),
        default=None,
        help="Secret that belongs to the key id.",
    )


@frozen
class IngestSettings:
    """What is accepted, and when it is shed."""

    bus: str = setting(
        "DUCKMESH_INGEST_BUS",
        text(r"[a-z][a-z0-9_-]*", "the name of an entry point in the group duckmesh.ingest_bus"),
        default="postgres",
        help="Which ingest bus carries the log: the name of an entry point in the group `duckmesh.ingest_bus`.",
    )
    max_records_per_request: int = setting(
        "DUCKMESH_MAX_RECORDS_PER_REQUEST",
        integer(1, 10_000_000),
        default=100_000,
        help="Most records in one ingest request of JSON; a request with more answers 413.",
    )
    max_pending_records: int = setting(
        "DUCKMESH_MAX_PENDING_RECORDS",
        integer(1, 1_000_000_000),
        default=10_000_000,
        help="Accepted records of one tenant that may wait to become visible; beyond it ingest answers 429.",
    )


@frozen
class CoordinatorSettings:
    """How writes become visible."""

    flush_interval_ms: int = setting(
        "DUCKMESH_FLUSH_INTERVAL_MS",
        integer(0, 60_000),
        default=250,
        help="Longest wait in milliseconds before a batch is published under continuous load. An idle log, or a "
        "caller that waits, is served at once.",
    )
    flush_max_records: int = setting(
        "DUCKMESH_FLUSH_MAX_RECORDS",
        integer(1, 10_000_000),
        default=200_000,
        help="Records after which a batch is published without waiting for more.",
    )
    lease_ttl_s: float = setting(
        "DUCKMESH_LEASE_TTL_S",
        number(0.1, 3600),
        default=5.0,
        help="Seconds after which the work of a coordinator that went silent is taken over.",
    )
    poll_interval_ms: int = setting(
        "DUCKMESH_POLL_INTERVAL_MS",
        integer(10, 600_000),
        default=1000,
        help="How often, in milliseconds, a process looks for news itself in case a notification was lost.",
    )


@frozen
class QuerySettings:
    """What one query may take, and how many run."""

    timeout_ms: int = setting(
        "DUCKMESH_QUERY_TIMEOUT_MS",
        integer(1, _HOUR_MS),
        default=30_000,
        help="Longest run of a query in milliseconds; then it is stopped with 408.",
    )
    max_rows: int = setting(
        "DUCKMESH_QUERY_MAX_ROWS",
        integer(1, 1_000_000_000),
        default=100_000,
        help="Most rows of a result; the rest is cut off and the answer says so.",
    )
    memory_mb: int = setting(
        "DUCKMESH_QUERY_MEMORY_MB",
        integer(64, 16 * _MIB),
        default=1024,
        help="Memory of one query in MiB; a query that needs more fails with 422.",
    )
    threads: int = setting("DUCKMESH_QUERY_THREADS", integer(1, 1024), default=2, help="Threads of one query.")
    concurrency: int = setting(
        "DUCKMESH_QUERY_CONCURRENCY",
        integer(1, 1024),
        default=4,
        help="Queries that run at once in one process; others queue.",
    )
    consistency_timeout_ms: int = setting(
        "DUCKMESH_CONSISTENCY_TIMEOUT_MS",
        integer(0, MAX_CONSISTENCY_TIMEOUT_MS),
        default=10_000,
        help="How long, in milliseconds, a request waits for its token to become visible unless it says otherwise.",
    )

    @property
    def memory_bytes(self) -> int:
        """The memory of one query in bytes."""
        return self.memory_mb * _MIB


@frozen
class TelemetrySettings:
    """Logs, traces and metrics."""

    service: str = setting(
        "DUCKMESH_SERVICE_NAME", text(), default="duckmesh", help="The name under which logs and traces appear."
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "DUCKMESH_LOG_LEVEL",
        choice("debug", "info", "warning", "error"),
        default="info",
        help="The least level that is logged.",
    )
    log_format: Literal["json", "console"] = setting(
        "DUCKMESH_LOG_FORMAT",
        choice("json", "console"),
        default="console",
        help="One JSON object a line, or text for people.",
    )
    traces: Literal["none", "console", "otlp"] = setting(
        "DUCKMESH_TRACES",
        choice("none", "console", "otlp"),
        default="none",
        help="Where spans go: nowhere, to stderr, or to an OTLP collector, for which the package "
        "`opentelemetry-exporter-otlp-proto-http` must be installed. Trace ids are made and passed on in any case.",
    )
    otlp_endpoint: str = setting(
        "DUCKMESH_OTLP_ENDPOINT",
        text(r"https?://\S+", "a URL such as http://collector:4318/v1/traces"),
        default="http://localhost:4318/v1/traces",
        help="URL of the collector when traces go to OTLP.",
    )
    trace_sample_ratio: float = setting(
        "DUCKMESH_TRACE_SAMPLE_RATIO",
        number(0, 1),
        default=1.0,
        help="Share of traces that are recorded when their caller did not decide.",
    )
    metrics_port: int = setting(
        "DUCKMESH_METRICS_PORT",
        integer(0, 65_535),
        default=0,
        help="TCP port on which a process without the API shows its metrics, on DUCKMESH_HOST; 0 is none. The API "
        "shows its own at `/v1/metrics`.",
    )
    metrics_max_tenants: int = setting(
        "DUCKMESH_METRICS_MAX_TENANTS",
        integer(0, 100_000),
        default=100,
        help="Tenants that get a label of their own in metrics; further ones are counted together as `_other`.",
    )


@frozen
class Settings:
    """All settings of one process. The defaults of the classes are those of the profile ``dev``."""

    profile: Profile = setting(
        "DUCKMESH_PROFILE", choice(*PROFILES), default="dev", help="Which set of defaults applies; nothing else."
    )
    roles: tuple[Role, ...] = setting(
        "DUCKMESH_ROLES", choices(*ROLES), default=ROLES, help="The planes that this process runs."
    )
    data_dir: Path = setting(
        "DUCKMESH_DATA_DIR",
        path(),
        default=Path("~/.local/share/duckmesh"),
        help="Folder for everything kept on this machine: the embedded Postgres, local objects, temporary files. A "
        "default in `~/.local/share` moves with `XDG_DATA_HOME`; for root it is in `/var/lib`, where the "
        "unprivileged Postgres can reach it.",
    )
    server: ServerSettings = field(factory=ServerSettings)
    postgres: PostgresSettings = field(factory=PostgresSettings)
    object_store: ObjectStoreSettings = field(factory=ObjectStoreSettings)
    ingest: IngestSettings = field(factory=IngestSettings)
    coordinator: CoordinatorSettings = field(factory=CoordinatorSettings)
    query: QuerySettings = field(factory=QuerySettings)
    telemetry: TelemetrySettings = field(factory=TelemetrySettings)

    def __attrs_post_init__(self) -> None:
        """Check what only several settings together can get wrong."""
        self._check_exposure()
        self._check_postgres()
        self._check_s3()

    @property
    def embedded_postgres(self) -> bool:
        """Whether this deployment brings its own Postgres."""
        return self.postgres.dsn is None

    @property
    def object_store_url(self) -> str:
        """Where objects are: as set, or below the data directory."""
        return self.object_store.url or (self.data_dir.expanduser().absolute() / "objects").as_uri()

    def _check_exposure(self) -> None:
        if not self.server.auth and self.server.host not in LOOPBACK_NAMES:
            problem = f"is off, and {self.server.host!r} is on a network: whoever reaches it is everybody's admin"
            raise refusal("DUCKMESH_AUTH", problem, "on, or DUCKMESH_HOST=127.0.0.1")

    def _check_postgres(self) -> None:
        if not self.embedded_postgres:
            return
        if self.postgres.listen_dsn is not None:
            raise refusal("DUCKMESH_POSTGRES_DSN", "is missing beside DUCKMESH_POSTGRES_LISTEN_DSN", _DSN.allowed)
        if self.roles != ROLES:
            problem = f"is missing, and DUCKMESH_ROLES={','.join(self.roles)} needs a Postgres shared with the others"
            raise refusal("DUCKMESH_POSTGRES_DSN", problem, _DSN.allowed)

    def _check_s3(self) -> None:
        key, key_secret = self.object_store.s3_access_key_id, self.object_store.s3_secret_access_key
        if (key is None) != (key_secret is None):
            missing = "ACCESS_KEY_ID" if key is None else "SECRET_ACCESS_KEY"
            raise refusal(f"DUCKMESH_S3_{missing}", "is missing beside its other half", "both of the pair, or neither")
