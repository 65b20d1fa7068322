"""`IngestBus`: the ordered log of every tenant, durable before it answers.

Nothing outside an adapter may assume that a tenant's tokens are dense or its own, that a payload can be fetched
again by its token, that delivery happens once or in the same batches, or that bus and catalog share a
transaction (contract, section 7).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from attrs import frozen

from duckmesh.domain.leases import Lease
from duckmesh.domain.tokens import LogHead
from duckmesh.domain.writes import ClaimedBatch, Lag, Outcome, WriteGroup
from duckmesh.ports.catalog import KeyLedger


@frozen
class BusCapabilities:
    """What an adapter promises beyond the port's laws.

    ``dense_tokens``: a tenant's tokens have no gaps. ``deduplicates``: `publish` decides about idempotency keys
    in the transaction of the log; a bus without it names the claims in what it delivers, and materialisation
    settles them in the catalog's ledger. ``checks_schema``: `publish` refuses a group behind a control write.
    """

    dense_tokens: bool
    deduplicates: bool
    checks_schema: bool


@frozen
class ClaimLimits:
    """Bounds of one claim. At least one entry is delivered, however large."""

    max_records: int = 200_000
    max_bytes: int = 64 * 1024 * 1024


@frozen
class BusOptions:
    """What a bus is opened with. ``environment`` holds its own settings, named as it documents them.

    ``ledger`` keeps idempotency keys for a bus that cannot; ``dsn`` is the database of the deployment.
    """

    dsn: str
    listen_dsn: str
    lease_ttl_s: float
    pool_size: int
    prepared_statements: bool
    ledger: KeyLedger
    environment: Mapping[str, str]


#: An entry point in the group ``duckmesh.ingest_bus`` is such a function.
OpenBus = Callable[[BusOptions], AbstractAsyncContextManager["IngestBus"]]


@runtime_checkable
class IngestBus(Protocol):
    """An ordered log of writes for each tenant, and the leases under which it is materialised."""

    @property
    def capabilities(self) -> BusCapabilities:
        """What this adapter promises beyond the laws."""
        ...

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        """Store the writes of a group; an outcome for each, in order.

        When it returns, every accepted write is durable, and its token is larger than that of any write
        committed before. One write's refusal does not touch its neighbours. Raises `SchemaChanged` (nothing
        stored; the caller validates again), `Unavailable` (nothing stored) or `OutcomeUnknown` (a retry with the
        same keys is safe).
        """
        ...

    async def claim_batch(
        self, holder: str, *, limits: ClaimLimits, tenant: str | None = None, after: int | None = None
    ) -> ClaimedBatch | None:
        """Take, or keep, the lease of a tenant with unacknowledged writes, and deliver the oldest of them.

        ``tenant`` restricts the choice. ``after`` is the watermark that the holder knows: writes up to it need
        not be delivered. None when there is nothing to do or other holders have the leases. A change of holder
        gives a higher epoch. Every committed write in the delivered range is in the batch.
        """
        ...

    async def ack(self, lease: Lease, through: int) -> None:
        """Say that everything up to ``through`` is published; it is not delivered again, except to be safe.

        Acknowledging twice, or under a lost lease, changes nothing that is wrong: positions only grow.
        """
        ...

    async def nack(self, lease: Lease) -> None:
        """Give the tenant back without progress, at once claimable by anybody."""
        ...

    async def extend_lease(self, lease: Lease) -> Lease:
        """Run the lease's time again from now; raises `LeaseLost` when another holder has it or had it since."""
        ...

    async def requeue_expired(self) -> int:
        """Make tenants of leases that ran out claimable; how many there were."""
        ...

    async def head(self, tenant: str) -> LogHead:
        """The end of a tenant's log; token 0 for an empty one. Tokens up to it are committed or never will be."""
        ...

    async def lag(self, tenant: str, watermark: int) -> Lag:
        """How far ``watermark`` is behind the log."""
        ...

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when there may be something to claim, or after ``timeout_s``; notifications can be lost."""
        ...
