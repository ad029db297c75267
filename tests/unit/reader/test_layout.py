import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gazetteer.reader.layout import lay_out


@given(
    st.integers(1, 5).flatmap(
        lambda passages: st.lists(
            st.lists(st.integers(0, 6), min_size=passages, max_size=passages),
            min_size=1,
            max_size=5,
        )
    )
)
def test_rows_hold_their_passages_one_after_the_other(table: list[list[int]]) -> None:
    lengths = np.array(table, dtype=np.int64)
    flat = lengths.reshape(-1)
    # Passages lie in the flat tensor in reverse order, as after bucketing.
    starts = (np.cumsum(flat[::-1]) - flat[::-1])[::-1].reshape(lengths.shape)
    layout = lay_out(starts, lengths)
    for row in range(len(lengths)):
        expected = [
            (starts[row, p] + t, p) for p in range(lengths.shape[1]) for t in range(lengths[row, p])
        ]
        real = layout.mask[row]
        assert real.sum() == len(expected)
        assert real[: len(expected)].all()
        found = zip(layout.index[row][real], layout.passage[row][real], strict=True)
        assert list(found) == expected


def test_padding_points_at_a_token_that_exists() -> None:
    layout = lay_out(np.array([[0], [3]]), np.array([[3], [1]]))
    assert layout.index.max() == 3
    assert layout.index[1, 1:].tolist() == [0, 0]
