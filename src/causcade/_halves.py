"""Work that is done in parts where the memory of the device runs out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

__all__ = ["Halves"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Halves:
    """Do work whole, or in 2, 4, 8, ... parts once memory of the device has run out.

    The number of parts that was enough stays for the work that follows, which is of about the same size.

    Parameters
    ----------
    work
        What it is, for the log.
    advice
        What to do where even the smallest parts do not fit.

    Attributes
    ----------
    parts
        Parts at present.
    """

    def __init__(self, work: str, advice: str) -> None:
        self.work, self.advice, self.parts = work, advice, 1

    def __call__(self, function: Callable[[int], T], most: int) -> T:
        """Give what ``function(parts)`` gives, from the first number of parts that fits.

        Parameters
        ----------
        function
            Does the work in so many parts. It is called again after a failure, so it must leave nothing behind then.
        most
            Most parts that the work can be divided into.

        Raises
        ------
        RuntimeError
            If memory runs out with `most` parts.
        """
        while True:
            parts = min(self.parts, most)
            try:
                return function(parts)
            except torch.cuda.OutOfMemoryError as error:
                told = str(error).split(". ")[0].rstrip(".") or type(error).__name__
            # only here, as the error and its frames held what did not fit
            gc.collect()
            torch.cuda.empty_cache()
            if parts >= most:
                msg = f"Memory of the device ran out in {self.work}{_in(most)}: {told}. {self.advice}"
                raise RuntimeError(msg)
            if self.parts == 1:
                logger.warning(
                    "memory of the device ran out in %s: from here on it is done in parts; slower, the same result",
                    self.work,
                )
            self.parts = 2 * parts


def _in(parts: int) -> str:
    return f", even in {parts} parts" if parts > 1 else ""
