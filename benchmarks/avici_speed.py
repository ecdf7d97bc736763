"""Seconds of a forward pass: our networks, and the published architecture written in JAX, in one run."""

from __future__ import annotations

import os
import time

import numpy as np
import pandas as pd
import torch

from causcade.nn.avici import Avici, AviciConfig
from causcade.nn.edge_stream import EdgeStream

PUBLISHED = AviciConfig(width=128, heads=8, head_width=32, hidden=512, layers=8, feeds=2, out=128)


def reference(rng: np.random.Generator):
    """The published network in JAX with random weights: ``(cells, genes, 2) -> (genes, genes)``, compiled."""
    import jax
    import jax.numpy as jnp

    width, heads, inner, hidden = 128, 8, 256, 512

    def weight(*shape: int):
        return jnp.asarray(rng.standard_normal(shape) / np.sqrt(shape[0]), dtype=jnp.float32)

    blocks = [
        {"q": weight(width, inner), "k": weight(width, inner), "v": weight(width, inner), "o": weight(inner, width),
         "a": weight(width, hidden), "b": weight(hidden, width)}
        for _ in range(16)
    ]  # fmt: skip
    params = {"in": weight(2, width), "blocks": blocks, "u": weight(width, width), "v": weight(width, width)}

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def attend(x, p):  # along the second axis
        q, k, v = (jnp.reshape(norm(x) @ p[n], (*x.shape[:2], heads, inner // heads)) for n in "qkv")
        logits = jnp.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(inner // heads)
        mixed = jnp.einsum("bhij,bjhd->bihd", jax.nn.softmax(logits, -1), v)
        return jnp.reshape(mixed, (*x.shape[:2], inner)) @ p["o"]

    @jax.jit
    def forward(params, x):
        h = x @ params["in"]
        for p in params["blocks"]:
            h = h + attend(h, p)
            h = h + jax.nn.relu(norm(h) @ p["a"]) @ p["b"]
            h = jnp.swapaxes(h, 0, 1)
        pooled = norm(h).max(0)
        u, v = (norm(pooled) @ params[n] for n in "uv")
        u, v = (t / jnp.linalg.norm(t, axis=-1, keepdims=True) for t in (u, v))
        return u @ v.T

    return lambda x: np.asarray(forward(params, x))


def table(sizes: tuple[int, ...] = (30, 100), cells: int = 1000, repeats: int = 2) -> pd.DataFrame:
    """Wall seconds of the best of some passes (one at 100 genes), all on the same threads; compiling is not counted."""
    rng = np.random.default_rng(0)
    try:
        published = reference(rng)
    except ImportError:
        published = None
    torch.manual_seed(0)
    nets = {"EdgeStream (released)": EdgeStream().eval(), "Avici (published sizes, torch)": Avici(PUBLISHED).eval()}
    rows = []
    for genes in sizes:
        x = rng.standard_normal((cells, genes)).astype(np.float32)
        mask = np.zeros_like(x)
        row: dict[str, float] = {"genes": genes, "cells": cells}
        times = repeats if genes < 100 else 1
        for name, net in nets.items():
            values = torch.from_numpy(x)[None]
            with torch.no_grad():
                row[name] = _best(lambda v=values, n=net: n(v, torch.zeros_like(v)), times)
        if published is not None:
            both = np.stack([x, mask], -1)
            published(both)  # compiles
            row["published, JAX"] = _best(lambda b=both: published(b), times)
            for name in nets:
                row[f"JAX / {name}"] = row["published, JAX"] / row[name]
        print(row, flush=True)
        rows.append(row)
    return pd.DataFrame(rows).assign(threads=torch.get_num_threads(), load=round(os.getloadavg()[0], 1))


def _best(call, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
