"""Compiled loops for the hidden layer of GraphSAGE by blocks: a handful of numbers for every gene and cell.

BLAS is slow on matrices of four rows. Loops are quick once the compiler knows how many rows there are and that no sum is
written to memory on the way, so their text is made for the sizes that are asked for, with every small product written out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["Kernels", "kernels"]

Kernels = tuple[Callable[..., None], Callable[..., None]]


@lru_cache
def kernels(n_in: int, width: int, n_out: int, *, of_values: bool) -> Kernels | None:
    """``forward(values, first, same, second, out)`` and its gradient; None without numba.

    Parameters
    ----------
    n_in, width, n_out
        Rows of the values, hidden, and of the result. Compiled when first called: some two seconds for each three.
    of_values
        Gradients of the values too, which take as long as all others.

    Returns
    -------
    ``forward`` fills ``out`` (n_out, n, batch) with ``second @ relu(first @ values + same)``; ``backward(values, first, same,
    second, after, before, sums, weight, learnt)`` the gradients of values, same (n, summed over the batch), first and second.
    """
    try:
        from numba import njit
    except ImportError:
        return None
    found: dict[str, Any] = {"np": np}
    exec(
        "\n".join([*_forward(n_in, width, n_out), *_backward(n_in, width, n_out, of_values=of_values)]), found
    )  # text of our own
    fast = {"reassoc", "contract", "nsz"}
    return njit(nogil=True, fastmath=fast)(found["forward"]), njit(nogil=True, fastmath=fast)(found["backward"])


def _begin(n_in: int, width: int, n_out: int) -> list[str]:
    return [
        *(f"    f{j}_{a} = first[{j}, {a}]" for j in range(width) for a in range(n_in)),
        *(f"    w{r}_{j} = second[{r}, {j}]" for r in range(n_out) for j in range(width)),
        "    batch, zero, one = values.shape[2], np.float32(0), np.float32(1)",
    ]


def _nodes(width: int) -> list[str]:
    return ["    for node in range(values.shape[1]):", *(f"        s{j} = same[{j}, node]" for j in range(width))]


def _hidden(j: int, n_in: int) -> str:
    """Before the ReLU."""
    return " + ".join([f"s{j}", *(f"f{j}_{a} * values[{a}, node, i]" for a in range(n_in))])


def _inner(j: int, n_out: int) -> str:
    """Gradient after the ReLU."""
    return " + ".join(f"w{r}_{j} * after[{r}, node, i]" for r in range(n_out))


def _forward(n_in: int, width: int, n_out: int) -> list[str]:
    lines = ["def forward(values, first, same, second, out):", *_begin(n_in, width, n_out), *_nodes(width)]
    lines += ["        for i in range(batch):", *(f"            t{r} = zero" for r in range(n_out))]
    for j in range(width):
        lines.append(f"            h = max({_hidden(j, n_in)}, zero)")
        lines += [f"            t{r} += w{r}_{j} * h" for r in range(n_out)]
    return lines + [f"            out[{r}, node, i] = t{r}" for r in range(n_out)]


def _backward(n_in: int, width: int, n_out: int, *, of_values: bool) -> list[str]:
    second = [(r, j) for r in range(n_out) for j in range(width)]
    first = [(j, a) for j in range(width) for a in range(n_in)]
    lines = [
        "def backward(values, first, same, second, after, before, sums, weight, learnt):",
        *_begin(n_in, width, n_out),
    ]
    lines += [f"    l{r}_{j} = zero" for r, j in second] + [f"    g{j}_{a} = zero" for j, a in first] + _nodes(width)
    # sums only, so that nothing is written that could be what is read
    lines += [*(f"        d{j} = zero" for j in range(width)), "        for i in range(batch):"]
    for j in range(width):
        lines += [f"            h = {_hidden(j, n_in)}", "            on = one if h > zero else zero"]
        lines += [f"            q = on * ({_inner(j, n_out)})", f"            d{j} += q"]
        lines += [f"            l{r}_{j} += on * h * after[{r}, node, i]" for r in range(n_out)]
        lines += [f"            g{j}_{a} += q * values[{a}, node, i]" for a in range(n_in)]
    lines += [f"        sums[{j}, node] = d{j}" for j in range(width)]
    if of_values:
        lines += ["        for i in range(batch):", *(f"            t{a} = zero" for a in range(n_in))]
        for j in range(width):
            lines.append(f"            q = ({_inner(j, n_out)}) if {_hidden(j, n_in)} > zero else zero")
            lines += [f"            t{a} += f{j}_{a} * q" for a in range(n_in)]
        lines += [f"            before[{a}, node, i] = t{a}" for a in range(n_in)]
    lines += [f"    learnt[{r}, {j}] = l{r}_{j}" for r, j in second]
    return lines + [f"    weight[{j}, {a}] = g{j}_{a}" for j, a in first]
