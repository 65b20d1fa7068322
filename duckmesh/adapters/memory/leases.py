"""One lease at a time, with an epoch that grows with every change of holder."""

from attrs import define

from duckmesh.domain.errors import LeaseLost
from duckmesh.domain.leases import Lease


@define
class LeaseSlot:
    """Who has the right, under which epoch, and until when (a reading of the bus's clock)."""

    holder: str | None = None
    epoch: int = 0
    expires_at: float = 0.0

    def live(self, now: float) -> bool:
        """Whether somebody has the lease and its time is not over."""
        return self.holder is not None and now < self.expires_at

    def open_to(self, holder: str, now: float) -> bool:
        """Whether ``holder`` may take or keep the lease."""
        return self.holder == holder or not self.live(now)

    def take(self, holder: str, until: float) -> int:
        """Give the lease to ``holder``; its epoch."""
        if self.holder != holder:
            self.epoch += 1
        self.holder, self.expires_at = holder, until
        return self.epoch

    def held_under(self, lease: Lease) -> bool:
        """Whether nobody else had the right since the lease was given."""
        return self.epoch == lease.epoch and self.holder in {None, lease.holder}

    def extend(self, lease: Lease, until: float) -> None:
        """Let the lease's time run again; raises `LeaseLost`."""
        if not self.held_under(lease):
            raise LeaseLost(
                f"the lease of {lease.holder!r} on tenant {lease.tenant!r} was taken over",
                tenant=lease.tenant,
                epoch=lease.epoch,
                current_epoch=self.epoch,
            )
        self.holder, self.expires_at = lease.holder, until

    def free(self) -> None:
        """Let anybody take the lease."""
        self.holder = None

    def expire(self) -> None:
        """Let the lease's time be over, as if its holder had been silent."""
        self.expires_at = float("-inf")
