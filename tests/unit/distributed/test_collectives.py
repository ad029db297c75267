from __future__ import annotations

import torch

from gazetteer.distributed import collectives


def test_one_rank_alone_keeps_what_it_has() -> None:
    rows = torch.arange(6.0).view(3, 2)
    collectives.barrier()
    assert collectives.is_alone()
    for reduce in (
        collectives.all_reduce_sum,
        collectives.all_reduce_max,
        collectives.all_reduce_mean,
    ):
        torch.testing.assert_close(reduce(rows), rows)
    gathered, counts = collectives.all_gather_rows(rows)
    torch.testing.assert_close(gathered, rows)
    assert counts == [3]
    torch.testing.assert_close(collectives.exchange_rows(rows, [3], [3]), rows)
    assert collectives.broadcast_bytes(b"ab\0") == b"ab\0"
    assert collectives.gather_bytes(b"ab\0") == [b"ab\0"]
