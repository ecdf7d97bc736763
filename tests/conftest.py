"""Shared by all tests: one thread per worker, and figures that need no screen."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch and numba are imported: xdist runs several workers
os.environ.setdefault("MPLBACKEND", "Agg")
