from collections.abc import Collection

import pytest

from duckmesh.domain.errors import PublicationConflict, StaleEpoch
from duckmesh.domain.leases import Lease, check_epoch
from duckmesh.domain.snapshots import CatalogHead, DataFile, check_publication
from duckmesh.testing.builders import EVENTS, data_file, publication

HEAD = CatalogHead("acme", 7, 3, epoch=5)


def refuse(watermark: int, *, epoch: int = 5, ended: Collection[int] = (), live: Collection[int] = ()) -> None:
    check_publication(HEAD, publication(HEAD, watermark, epoch=epoch, ended=tuple(ended)), live)


def test_a_publication_planned_on_the_present_state_passes() -> None:
    refuse(8)
    refuse(7, ended=[1, 2], live=[1, 2])
    refuse(9, epoch=6)


def test_an_overtaken_epoch_is_stale_whatever_else_is_wrong() -> None:
    with pytest.raises(StaleEpoch) as refused:
        refuse(3, epoch=4, ended=[1])
    assert refused.value.context == {"tenant": "acme", "epoch": 4, "recorded_epoch": 5}


@pytest.mark.parametrize("planned_on", [6, 8])
def test_another_watermark_is_a_conflict_in_both_directions(planned_on: int) -> None:
    planned = publication(CatalogHead("acme", planned_on, 3, epoch=5), 9)
    with pytest.raises(PublicationConflict) as refused:
        check_publication(HEAD, planned, ())
    assert refused.value.context == {"base_watermark": planned_on, "watermark": 7}


def test_a_watermark_does_not_fall() -> None:
    with pytest.raises(PublicationConflict, match="only grows"):
        refuse(6)


def test_an_ended_file_that_is_gone_is_named() -> None:
    with pytest.raises(PublicationConflict) as refused:
        refuse(8, ended=[3, 1, 2], live=[1])
    assert refused.value.context == {"files": [2, 3]}


def test_a_file_lives_from_its_first_snapshot_until_before_its_last() -> None:
    ended, open_ended = DataFile(1, data_file(EVENTS, "a"), 3, 5), DataFile(2, data_file(EVENTS, "b"), 3)
    assert [ended.live_in(number) for number in (2, 3, 4, 5)] == [False, True, True, False]
    assert [open_ended.live_in(number) for number in (2, 3, 2**62)] == [False, True, True]


def test_a_file_has_rows_and_bytes() -> None:
    for changes in ({"rows": 0}, {"bytes": 0}):
        with pytest.raises(ValueError, match="must be >="):
            data_file(EVENTS, "a", **changes)


def test_an_epoch_may_repeat_and_grow_but_not_fall() -> None:
    check_epoch(5, 5, "acme")
    check_epoch(5, 6, "acme")
    with pytest.raises(StaleEpoch):
        check_epoch(5, 4, "acme")


def test_a_lease_has_an_epoch_and_a_time_to_live() -> None:
    for epoch, ttl in ((0, 10.0), (1, 0.0)):
        with pytest.raises(ValueError, match=r"must be"):
            Lease("acme", "one", epoch, ttl)
