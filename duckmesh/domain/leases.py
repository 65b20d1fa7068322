"""The right of one coordinator to materialise one tenant's log for a while.

A lease gives liveness only: it keeps two coordinators from doing the same work. Safety is the fencing epoch,
checked in the publication (contract, promise 3). Lease time is the clock of the bus, never of a worker.
"""

from attrs import field, frozen, validators

from duckmesh.domain.errors import StaleEpoch


@frozen
class Lease:
    """Held by ``holder`` under fencing ``epoch``, which grows with every change of holder."""

    tenant: str
    holder: str
    epoch: int = field(validator=validators.ge(1))
    ttl_s: float = field(default=10.0, validator=validators.gt(0))


def check_epoch(recorded: int, epoch: int, tenant: str) -> None:
    """Refuse an epoch behind the highest one recorded for the tenant."""
    if epoch < recorded:
        raise StaleEpoch(
            f"epoch {epoch} of tenant {tenant!r} was overtaken by epoch {recorded}",
            tenant=tenant,
            epoch=epoch,
            recorded_epoch=recorded,
        )
