"""The log and the catalog of version 0.1."""

from alembic import op

revision = "0001"
down_revision = None

_UP = [
    # The log: one head and one lease for each tenant, entries in token order, the ledger of idempotency keys.
    """
    CREATE TABLE log_head (
        tenant_id text PRIMARY KEY,
        log_id uuid NOT NULL DEFAULT gen_random_uuid(),
        head bigint NOT NULL DEFAULT 0,
        control_token bigint NOT NULL DEFAULT 0,
        accepted_records bigint NOT NULL DEFAULT 0,
        incarnation int NOT NULL DEFAULT 0,
        skipped_from bigint[] NOT NULL DEFAULT '{}',
        skipped_to bigint[] NOT NULL DEFAULT '{}'
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
    """,
    """
    CREATE TABLE log_lease (
        tenant_id text PRIMARY KEY,
        holder text,
        epoch bigint NOT NULL DEFAULT 0,
        acked bigint NOT NULL DEFAULT 0,
        claimed_at timestamptz,
        expires_at timestamptz
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
    """,
    """
    CREATE TABLE log_entry (
        tenant_id text NOT NULL,
        last_token bigint NOT NULL,
        first_token bigint NOT NULL,
        accepted_at timestamptz NOT NULL,
        records bigint NOT NULL,
        envelope bytea NOT NULL,
        payload bytea NOT NULL,
        PRIMARY KEY (tenant_id, last_token)
    )
    """,
    # Rows are compressed where that pays before they come here.
    "ALTER TABLE log_entry ALTER COLUMN payload SET STORAGE EXTERNAL, ALTER COLUMN envelope SET STORAGE EXTERNAL",
    """
    CREATE TABLE idempotency_key (
        key_id bytea PRIMARY KEY,
        content_id bytea NOT NULL,
        token bigint NOT NULL,
        accepted_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX idempotency_key_age ON idempotency_key USING brin (accepted_at)",
    # Lets one statement give up as a whole, so that the common case needs no transaction block.
    """
    CREATE FUNCTION duckmesh_refuse(code text, reason text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
    BEGIN
        RAISE EXCEPTION USING ERRCODE = code, MESSAGE = 'duckmesh: ' || reason;
    END $$
    """,
    # The catalog.
    """
    CREATE TABLE tenant (
        tenant_id text PRIMARY KEY,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    )
    """,
    """
    CREATE TABLE api_key (
        key_id text PRIMARY KEY,
        tenant_id text NOT NULL REFERENCES tenant,
        roles text[] NOT NULL,
        secret_hash bytea NOT NULL,
        name text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL,
        revoked_at timestamptz
    )
    """,
    "CREATE INDEX api_key_tenant ON api_key (tenant_id)",
    "CREATE SEQUENCE snapshot_id AS bigint",
    """
    CREATE TABLE snapshot (
        snapshot_id bigint PRIMARY KEY,
        tenant_id text NOT NULL REFERENCES tenant,
        parent_id bigint,
        watermark bigint NOT NULL,
        published_at timestamptz NOT NULL,
        author text NOT NULL
    )
    """,
    "CREATE INDEX snapshot_of_tenant ON snapshot (tenant_id, snapshot_id DESC)",
    "CREATE INDEX snapshot_by_time ON snapshot (tenant_id, published_at DESC, snapshot_id DESC)",
    """
    CREATE TABLE catalog_head (
        tenant_id text PRIMARY KEY REFERENCES tenant,
        watermark bigint NOT NULL,
        snapshot_id bigint NOT NULL,
        epoch bigint NOT NULL DEFAULT 0,
        control_token bigint NOT NULL DEFAULT 0
    ) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
    """,
    """
    CREATE TABLE table_version (
        tenant_id text NOT NULL REFERENCES tenant,
        table_id text NOT NULL,
        version int NOT NULL,
        name text NOT NULL,
        definition text NOT NULL,
        begin_snapshot bigint NOT NULL,
        end_snapshot bigint,
        PRIMARY KEY (tenant_id, table_id, version)
    )
    """,
    "CREATE UNIQUE INDEX table_live ON table_version (tenant_id, name) WHERE end_snapshot IS NULL",
    """
    CREATE TABLE data_file (
        file_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tenant_id text NOT NULL REFERENCES tenant,
        table_id text NOT NULL,
        path text NOT NULL,
        schema_version int NOT NULL,
        rows bigint NOT NULL,
        bytes bigint NOT NULL,
        checksum text NOT NULL,
        min_token bigint NOT NULL,
        max_token bigint NOT NULL,
        min_event_time timestamptz NOT NULL,
        max_event_time timestamptz NOT NULL,
        key_min text,
        key_max text,
        begin_snapshot bigint NOT NULL,
        end_snapshot bigint
    )
    """,
    "CREATE INDEX data_file_live ON data_file (tenant_id, begin_snapshot) WHERE end_snapshot IS NULL",
    "CREATE INDEX data_file_ended ON data_file (tenant_id, end_snapshot) WHERE end_snapshot IS NOT NULL",
    """
    CREATE TABLE control_result (
        tenant_id text NOT NULL REFERENCES tenant,
        token bigint NOT NULL,
        change text NOT NULL,
        error_code text,
        error_message text,
        error_context text NOT NULL,
        PRIMARY KEY (tenant_id, token)
    )
    """,
    """
    CREATE TABLE parked_write (
        tenant_id text NOT NULL REFERENCES tenant,
        token bigint NOT NULL,
        error_code text NOT NULL,
        reason text NOT NULL,
        tables text[] NOT NULL,
        records bigint NOT NULL,
        parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        resolved_at timestamptz,
        PRIMARY KEY (tenant_id, token)
    )
    """,
    """
    CREATE TABLE key_ledger (
        tenant_id text NOT NULL,
        key_id bytea NOT NULL,
        content_id bytea NOT NULL,
        token bigint NOT NULL DEFAULT 0,
        reserved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (tenant_id, key_id)
    )
    """,
]

_TABLES = (
    "key_ledger", "parked_write", "control_result", "data_file", "table_version", "catalog_head", "snapshot",
    "api_key", "tenant", "idempotency_key", "log_entry", "log_lease", "log_head",
)  # fmt: skip


def upgrade() -> None:
    for statement in _UP:
        op.execute(statement)


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP SEQUENCE snapshot_id")
    op.execute("DROP FUNCTION duckmesh_refuse(text, text)")
