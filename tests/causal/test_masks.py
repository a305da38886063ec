"""One table says who may see whom; the dense mask and FlexAttention's function are two ways to write it down."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from vdistill.causal.layout import Layout
from vdistill.causal.masks import bidirectional, block_causal, dense, mask_mod, rolling, teacher_forcing, with_prefix
from vdistill.core.errors import UserError

TABLES = {
    "bidirectional": bidirectional(5),
    "causal": block_causal(Layout(2, first=1), 7),
    "window": block_causal(Layout(2, window=4), 8),
    "sink": block_causal(Layout(2, window=5, sink=1), 8),
    "teacher": teacher_forcing(Layout(2), 4),
    "teacher-sink": teacher_forcing(Layout(1, window=3, sink=1), 5),
    "rolling": rolling(Layout(1, window=6, sink=1), 8, 4),
}
every = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


def drawn(text: str) -> Tensor:
    return torch.tensor([[c == "1" for c in line] for line in text.split()])


def test_tables_are_what_is_drawn() -> None:
    assert torch.equal(block_causal(Layout(2, first=1), 5), drawn("10000 11100 11100 11111 11111"))
    assert torch.equal(block_causal(Layout(1, window=2), 4), drawn("1000 1100 0110 0011"))
    assert torch.equal(block_causal(Layout(1, window=3, sink=1), 5), drawn("10000 11000 11100 10110 10011"))
    assert torch.equal(teacher_forcing(Layout(1), 2), drawn("1000 1100 0010 1001"))
    assert torch.equal(teacher_forcing(Layout(1, window=2), 3), drawn("100000 110000 011000 000100 100010 010001"))
    assert torch.equal(rolling(Layout(1, window=4, sink=1), 5, 3), drawn("10000 11000 11100 10111 10111"))
    assert torch.equal(with_prefix(bidirectional(2)), drawn("100 111 111"))


@every
@pytest.mark.parametrize("prefix", [0, 3])
def test_both_ways_to_write_a_table_say_the_same_of_every_pair(table: Tensor, prefix: int) -> None:
    rows, mask = 3, dense(table, 3, prefix)
    n = prefix + rows * len(table)
    query, key = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    zero = torch.zeros((), dtype=torch.long)
    assert torch.equal(mask_mod(table, rows, prefix)(zero, zero, query, key), mask)
    assert mask.shape == (n, n) and torch.equal(mask[prefix::rows, prefix::rows], table)
    assert mask[:, :prefix].all() and not mask[:prefix, prefix:].any()


@every
@pytest.mark.parametrize("prefix", [0, 5])
def test_flex_attention_is_attention_under_the_dense_mask(table: Tensor, prefix: int) -> None:
    n, source = prefix + 4 * len(table), torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, n, 16, generator=source) for _ in range(3))
    blocks = create_block_mask(mask_mod(table, 4, prefix), None, None, n, n, device="cpu")
    with torch.no_grad():
        ours = flex_attention(q, k, v, block_mask=blocks)
    assert isinstance(ours, Tensor)
    seen = scaled_dot_product_attention(q, k, v, attn_mask=dense(table, 4, prefix))
    assert torch.allclose(ours, seen, atol=1e-5)


@pytest.mark.parametrize("length", [0, 1, 4, 6])
def test_a_length_that_is_not_whole_blocks_is_one_line(length: int) -> None:
    with pytest.raises(UserError, match=r"possible is 2 \+ k \* 3"):
        block_causal(Layout(3, first=2), length)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"block": 0}, "1 position or more"),
        ({"block": 3, "window": 2}, "smaller than a block"),
        ({"block": 1, "first": 4, "window": 3}, "smaller than a block"),
        ({"block": 3, "window": 6, "sink": 4}, "do not fit"),
        ({"block": 3, "sink": -1}, "0 or more"),
    ],
)
def test_a_layout_that_cannot_be_is_one_line(settings: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Layout(**settings)  # type: ignore[arg-type]
