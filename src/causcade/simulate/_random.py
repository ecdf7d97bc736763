"""Turn whatever the caller gave as ``rng`` into one generator on the right device."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["Rng", "numpy_generator", "torch_generator"]

Rng = int | np.random.Generator | torch.Generator | None

_SEED_BOUND = 2**63 - 1


def _same_device(a: torch.device, b: torch.device) -> bool:
    if a.type != b.type:
        return False
    if a.type != "cuda":
        return True
    current = torch.cuda.current_device() if None in (a.index, b.index) else None
    return (current if a.index is None else a.index) == (current if b.index is None else b.index)


def _check_seed(rng: object) -> int:
    ok = isinstance(rng, int | np.integer) and not isinstance(rng, bool) and 0 <= rng < _SEED_BOUND
    if not ok:
        msg = (
            f"bad rng: {rng!r}. Give a whole number from 0 to 2**63 - 2, a numpy.random.Generator, "
            "a torch.Generator or None"
        )
        raise ValueError(msg)
    return int(rng)  # type: ignore[call-overload]


def torch_generator(rng: Rng, device: str | torch.device = "cpu") -> torch.Generator:
    """Make a torch generator on ``device``.

    Parameters
    ----------
    rng
        A seed, a numpy generator (one draw of it becomes the seed), a torch generator (returned as it is, so
        that its stream goes on), or None for fresh entropy.
    device
        Where the generator draws. The same seed gives different draws on CPU and on an accelerator.

    Returns
    -------
    torch.Generator

    Raises
    ------
    ValueError
        If ``rng`` is a bool, negative, another type, or a torch generator of another device.
    """
    device = torch.device(device)
    if isinstance(rng, torch.Generator):
        if not _same_device(rng.device, device):
            msg = f"bad rng: a torch.Generator on {str(rng.device)!r}, but device={str(device)!r}. Make both the same"
            raise ValueError(msg)
        return rng
    generator = torch.Generator(device=device)
    if rng is None:
        generator.seed()
    elif isinstance(rng, np.random.Generator):
        generator.manual_seed(int(rng.integers(_SEED_BOUND)))
    else:
        generator.manual_seed(_check_seed(rng))
    return generator


def numpy_generator(rng: Rng) -> np.random.Generator:
    """Make a numpy generator, for the few steps that run on the host.

    Parameters
    ----------
    rng
        As in :func:`torch_generator`; one draw of a torch generator becomes the seed.

    Returns
    -------
    numpy.random.Generator

    Raises
    ------
    ValueError
        If ``rng`` is a bool, negative, or another type.
    """
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, torch.Generator):
        seed = torch.randint(_SEED_BOUND, (1,), generator=rng, device=rng.device)
        return np.random.default_rng(int(seed.item()))
    return np.random.default_rng(None if rng is None else _check_seed(rng))
