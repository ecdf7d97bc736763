"""Work in parts where memory of the device runs out."""

from __future__ import annotations

import logging

import pytest
import torch

from causcade._halves import Halves


def worker(room: int, of: int, seen: list[int]):
    def work(parts: int) -> int:
        seen.append(parts)
        if -(-of // parts) > room:
            text = "CUDA out of memory. Tried to allocate 1 GiB."
            raise torch.cuda.OutOfMemoryError(text)
        return parts

    return work


def test_halves_until_it_fits_and_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    halves, seen = Halves("a step", "Lower it."), []
    with caplog.at_level(logging.WARNING):
        assert halves(worker(10, 10, seen), 10) == 1 and seen == [1] and not caplog.messages
        assert halves(worker(3, 10, seen), 10) == 4 and seen == [1, 1, 2, 4]
        assert halves(worker(3, 10, seen), 10) == 4 and seen[4:] == [4]
        assert halves(worker(1, 6, seen), 6) == 6 and seen[5:] == [4, 6]  # no more parts than items
    assert len(caplog.messages) == 1 and "ran out in a step: from here on it is done in parts" in caplog.messages[0]
    assert halves(worker(1, 2, seen), 2) == 2  # fewer items than parts


@pytest.mark.parametrize(("most", "text"), [(1, "in a step: CUDA out of memory. Lower it"), (4, "even in 4 parts")])
def test_says_what_to_do_where_nothing_fits(most: int, text: str) -> None:
    with pytest.raises(RuntimeError, match=text) as caught:
        Halves("a step", "Lower it.")(worker(0, 4, []), most)
    assert not isinstance(caught.value, torch.cuda.OutOfMemoryError)
    assert caught.value.__context__ is None  # whose frames would hold the memory


def test_lets_go_of_what_did_not_fit() -> None:
    """Before it tries again: what the failed attempt held is gone."""
    held: list[int] = []

    class Big:
        def __init__(self) -> None:
            held.append(1)

        def __del__(self) -> None:
            held.pop()

    def work(parts: int) -> int:
        assert not held
        big = Big()
        if parts == 1:
            raise torch.cuda.OutOfMemoryError
        return len(held) if big else 0

    assert Halves("a step", "")(work, 2) == 1


def test_other_errors_pass() -> None:
    def work(_: int) -> None:
        raise RuntimeError("else")

    with pytest.raises(RuntimeError, match=r"^else$"):
        Halves("a step", "Lower it.")(work, 8)
