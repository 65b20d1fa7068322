"""The statements of the catalog.

A row of ``table_version`` or ``data_file`` belongs to the snapshots from ``begin_snapshot`` until
``end_snapshot`` (exclusive), so the manifest of any snapshot is an indexed query.
"""

from typing import Final

HEAD: Final = "SELECT watermark, snapshot_id, epoch, control_token FROM catalog_head WHERE tenant_id = $1"
LOCK_HEAD: Final = HEAD + " FOR UPDATE"

# The highest epoch only grows: the domain's rule `check_epoch`.
RECORD_EPOCH: Final = """
UPDATE catalog_head SET epoch = $2 WHERE tenant_id = $1 AND epoch <= $2
RETURNING watermark, snapshot_id, epoch, control_token
"""

LIVE: Final = (
    "SELECT file_id FROM data_file WHERE tenant_id = $1 AND file_id = ANY($2::bigint[]) AND end_snapshot IS NULL"
)

# Under the head's lock, so ids grow within a tenant, and a snapshot is never older than its parent.
ADVANCE: Final = """
WITH parent AS (
    SELECT s.snapshot_id, s.published_at
      FROM catalog_head h JOIN snapshot s USING (tenant_id, snapshot_id) WHERE h.tenant_id = $1
), made AS (
    INSERT INTO snapshot (snapshot_id, tenant_id, parent_id, watermark, published_at, author)
    SELECT nextval('snapshot_id'), $1, snapshot_id, $2, greatest(clock_timestamp(), published_at), $3 FROM parent
    RETURNING *
), moved AS (
    UPDATE catalog_head SET watermark = $2, snapshot_id = made.snapshot_id, control_token = $4
      FROM made WHERE catalog_head.tenant_id = $1
)
SELECT * FROM made
"""

ADD_FILES: Final = """
INSERT INTO data_file (
    tenant_id, begin_snapshot, table_id, path, schema_version, rows, bytes, checksum, min_token, max_token,
    min_event_time, max_event_time, key_min, key_max)
SELECT $1, $2, f.* FROM unnest(
    $3::text[], $4::text[], $5::int[], $6::bigint[], $7::bigint[], $8::text[], $9::bigint[], $10::bigint[],
    $11::timestamptz[], $12::timestamptz[], $13::text[], $14::text[]) AS f
"""

END_FILES: Final = """
UPDATE data_file SET end_snapshot = $2
 WHERE tenant_id = $1 AND file_id = ANY($3::bigint[]) AND end_snapshot IS NULL
"""

END_TABLE_FILES: Final = """
UPDATE data_file SET end_snapshot = $2
 WHERE tenant_id = $1 AND table_id = ANY($3::text[]) AND end_snapshot IS NULL
"""

PARK: Final = """
INSERT INTO parked_write (tenant_id, token, error_code, reason, tables, records)
SELECT $1, p.token, p.error_code, p.reason, ARRAY(SELECT json_array_elements_text(p.tables::json)), p.records
  FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[])
    AS p (token, error_code, reason, tables, records)
"""

PARKED: Final = """
SELECT token, error_code, reason, tables, records FROM parked_write
 WHERE tenant_id = $1 AND token <= $2 AND resolved_at IS NULL ORDER BY token
"""

TABLES: Final = """
SELECT name, definition FROM table_version
 WHERE tenant_id = $1 AND begin_snapshot <= $2 AND (end_snapshot IS NULL OR end_snapshot > $2)
"""

BEGIN_TABLE: Final = """
INSERT INTO table_version (tenant_id, begin_snapshot, table_id, version, name, definition)
VALUES ($1, $2, $3, $4, $5, $6)
"""

END_TABLE: Final = """
UPDATE table_version SET end_snapshot = $2 WHERE tenant_id = $1 AND table_id = $3 AND version = $4
"""

ADD_CONTROL: Final = """
INSERT INTO control_result (tenant_id, token, change, error_code, error_message, error_context)
VALUES ($1, $2, $3, $4, $5, $6)
"""

CONTROL_RESULT: Final = """
SELECT change, error_code, error_message, error_context FROM control_result WHERE tenant_id = $1 AND token = $2
"""

_SNAPSHOT: Final = "SELECT snapshot_id, tenant_id, parent_id, watermark, published_at, author FROM snapshot "
SNAPSHOT: Final = _SNAPSHOT + "WHERE tenant_id = $1 AND snapshot_id = $2"
LATEST_SNAPSHOT: Final = f"""{_SNAPSHOT}
WHERE (tenant_id, snapshot_id) = (SELECT tenant_id, snapshot_id FROM catalog_head WHERE tenant_id = $1)
"""  # noqa: S608 - put together from constants
SNAPSHOT_AT: Final = (
    _SNAPSHOT + "WHERE tenant_id = $1 AND published_at <= $2 ORDER BY published_at DESC, snapshot_id DESC LIMIT 1"
)
SNAPSHOTS: Final = (
    _SNAPSHOT + "WHERE tenant_id = $1 AND ($2::bigint IS NULL OR snapshot_id < $2) ORDER BY snapshot_id DESC LIMIT $3"
)

# Two indexed halves: the live files, and those that ended after the snapshot.
FILES: Final = """
SELECT * FROM data_file WHERE tenant_id = $1 AND end_snapshot IS NULL AND begin_snapshot <= $2
UNION ALL
SELECT * FROM data_file WHERE tenant_id = $1 AND end_snapshot > $2 AND begin_snapshot <= $2
ORDER BY file_id
"""
