"""Alembic's environment: runs on the connection that `duckmesh.adapters.postgres.migrate` gives."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="duckmesh_version",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
