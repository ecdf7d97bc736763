"""Axial attention, against its formula written out."""

from __future__ import annotations

import math

import pytest
import torch

from causcade.nn.axial import AxialAttention, AxialLayer, PathProduct


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def parts(layer, line):
    """Queries, keys and values of one line of the grid, ``(length, heads, head_width)`` each."""
    q, k, v = layer.qkv(line).chunk(3, -1)
    return (t.reshape(*line.shape[:-1], layer.heads, layer.head_width) for t in (q, k, v))


def line_attention(layer, line, blocked=None):
    """Ordinary multi-head attention over one line ``(length, width)``, head by head."""
    q, k, v = parts(layer, line)
    heads = []
    for h in range(layer.heads):
        logits = q[:, h] @ k[:, h].T
        if layer.scale == "width":
            logits = logits / math.sqrt(layer.head_width)
        if blocked is not None:
            logits = logits.masked_fill(blocked[None], -math.inf)
        heads.append(logits.softmax(-1) @ v[:, h])
    return layer.out(torch.cat(heads, -1))


def along(axis, x):
    """Iterate over the lines of a grid as (index, line)."""
    for b in range(x.shape[0]):
        for other in range(x.shape[3 - axis]):
            at = (b, other) if axis == 2 else (b, slice(None), other)
            yield at, x[at]


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("scale", ["none", "width"])
def test_untied_attention_is_a_loop_over_lines(axis, scale) -> None:
    layer, x = AxialAttention(12, 3, axis, scale=scale), torch.randn(2, 4, 5, 12)
    got = layer(x)
    assert got.shape == x.shape
    for at, line in along(axis, x):
        torch.testing.assert_close(got[at], line_attention(layer, line), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("scale", "divisor"), [("none", 1.0), ("width", 4**0.5), ("full", None)])
def test_tied_attention_sums_logits_over_the_other_axis(axis, scale, divisor) -> None:
    layer, x = AxialAttention(12, 3, axis, tied=True, scale=scale), torch.randn(2, 4, 5, 12)
    grid = x if axis == 2 else x.transpose(1, 2)  # (b, r, i, width): i attends to j, summed over r
    q, k, v = parts(layer, grid)
    logits = torch.einsum("brihd,brjhd->bhij", q, k) / (divisor or (4 * grid.shape[1]) ** 0.5)
    want = layer.out(torch.einsum("bhij,brjhd->brihd", logits.softmax(-1), v).flatten(3))
    torch.testing.assert_close(layer(x), want if axis == 2 else want.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("axis", [1, 2])
def test_blocked_positions_have_no_influence(axis, tied) -> None:
    layer, x = AxialAttention(8, 2, axis, tied=tied), torch.randn(2, 4, 4, 8)
    blocked = torch.zeros(2, 4, dtype=torch.bool)
    blocked[0, 1] = blocked[1, 2] = True
    changed = x.clone()
    for b, at in ((0, 1), (1, 2)):
        changed.select(axis, at)[b] = 100.0
    before, after = layer(x, blocked), layer(changed, blocked)
    for b, at in ((0, 1), (1, 2)):
        others = [i for i in range(4) if i != at]
        torch.testing.assert_close(
            before[b].index_select(axis - 1, torch.tensor(others)),
            after[b].index_select(axis - 1, torch.tensor(others)),
        )
    assert not torch.allclose(before, layer(x))
    torch.testing.assert_close(layer(x, torch.zeros_like(blocked)), layer(x), rtol=1e-4, atol=1e-5)


def test_blocked_untied_attention_is_the_loop() -> None:
    layer, x = AxialAttention(8, 2, 1), torch.randn(2, 4, 3, 8)
    blocked = torch.tensor([[False, True, False, False], [True, False, False, True]])
    got = layer(x, blocked)
    for at, line in along(1, x):
        torch.testing.assert_close(got[at], line_attention(layer, line, blocked[at[0]]), rtol=1e-4, atol=1e-5)


def test_heads_may_be_wider_than_the_stream_divided() -> None:
    layer, x = AxialAttention(6, 4, 2, head_width=8), torch.randn(1, 2, 3, 6)
    assert layer.qkv.weight.shape == (96, 6)
    torch.testing.assert_close(layer(x)[0, 1], line_attention(layer, x[0, 1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_layer_is_columns_then_rows_then_feed_forward(tied) -> None:
    layer, x = AxialLayer(8, 2, 16, tied=tied), torch.randn(2, 3, 5, 8)
    want = x + layer.along_columns(layer.norms[0](x))
    assert (layer.along_columns.axis, layer.along_rows.axis) == (2, 1)
    want = want + layer.along_rows(layer.norms[1](want))
    want = want + layer.feed(layer.norms[2](want))
    torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize("tied", [True, False])
def test_layer_follows_both_orders(tied) -> None:
    layer, x = AxialLayer(8, 2, 16, tied=tied, scale="full" if tied else "width"), torch.randn(2, 4, 5, 8)
    rows, columns = torch.randperm(4), torch.randperm(5)
    torch.testing.assert_close(layer(x[:, rows][:, :, columns]), layer(x)[:, rows][:, :, columns], rtol=1e-4, atol=1e-5)


def test_path_product_sums_over_third_genes() -> None:
    paths, x = PathProduct(6, 3), torch.randn(2, 5, 5, 6)
    h = paths.norm(x)
    both = paths.factors(h) * torch.sigmoid(paths.gates(h))
    product = torch.einsum("bikc,bkjc->bijc", both[..., :3], both[..., 3:]) / math.sqrt(5)
    torch.testing.assert_close(paths(x), paths.out(product), rtol=1e-4, atol=1e-5)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="'full'; got 'full' with tied=False"):
        AxialAttention(8, 2, 1, scale="full")
    with pytest.raises(ValueError, match="heads=3"):
        AxialAttention(8, 3, 1)
    with pytest.raises(ValueError, match="axis=0"):
        AxialAttention(8, 2, 0)
