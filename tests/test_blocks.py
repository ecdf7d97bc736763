"""Blocks of long work: kept whole, under one question, and taken away at the end."""

from __future__ import annotations

import json
import logging
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from causcade import _blocks
from causcade._blocks import Blocks, checksum

QUESTION = {"n_draws": 2, "data": "f" * 64, "stable": None}


def drawn(blocks, rng, n=3, made=None):
    """Blocks of random numbers, parts of one larger block."""
    return blocks.take("all", lambda: {"x": np.concatenate([part(blocks, rng, i, made) for i in range(n)])}, rng=rng)[
        "x"
    ]


def part(blocks, rng, i, made=None):
    def make():
        if made is not None:
            made.append(i)
        return {"x": rng.normal(size=2).astype(np.float32)}

    return blocks.take(f"all-{i}", make, rng=rng)["x"]


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_a_block_that_is_there_leaves_the_generator_as_making_it_would(tmp_path: Path, kind) -> None:
    whole, after = (lambda rng: (drawn(Blocks(), rng), rng.normal()))(np.random.Generator(kind(1)))
    rng = np.random.Generator(kind(1))
    for i in range(2):
        part(Blocks(tmp_path / "it", QUESTION), rng, i)
    made: list[int] = []
    rng = np.random.Generator(kind(1))
    assert drawn(Blocks(tmp_path / "it", QUESTION), rng, made=made).tobytes() == whole.tobytes()
    assert made == [2]
    assert rng.normal() == after


def test_parts_are_taken_away_with_what_they_are_parts_of(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path, QUESTION)
    blocks.take("all-10", lambda: {"x": np.zeros(1)})
    blocks.take("all-1-0", lambda: {"x": np.zeros(1)})
    blocks.take("all-1", lambda: {"x": np.zeros(1)})
    assert sorted(p.name for p in tmp_path.glob("*.npz")) == ["all-1.block.npz", "all-10.block.npz"]
    assert blocks.has("all-10") and not blocks.has("all-1-0")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"n_draws": 3}, r"different: n_draws \(2, now 3\)\. Ask"),
        ({"data": "0" * 64}, r"different: data\. Ask that question again, or pass another folder"),
        ({"more": 1}, r"more \(None, now 1\)"),
    ],
)
def test_another_question_is_refused(tmp_path: Path, asked, text) -> None:
    part(Blocks(tmp_path / "it", QUESTION), np.random.default_rng(0), 0)
    before = {p: p.read_bytes() for p in (tmp_path / "it").iterdir()}
    with pytest.raises(ValueError, match=text):
        Blocks(tmp_path / "it", QUESTION | asked)
    assert {p: p.read_bytes() for p in (tmp_path / "it").iterdir()} == before


@pytest.mark.parametrize("text", ["", "[1]", "{", "null"])
def test_a_question_that_cannot_be_read_is_another_one(tmp_path: Path, text) -> None:
    (tmp_path / "question.json").write_text(text)
    with pytest.raises(ValueError, match="another question"):
        Blocks(tmp_path, QUESTION)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files \(mine.txt\); pass a new or an empty folder"):
        Blocks(tmp_path, QUESTION)
    with pytest.raises(ValueError, match="is a file"):
        Blocks(tmp_path / "mine.txt", QUESTION)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_all_is_taken_away_but_what_others_put_there(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    blocks = Blocks(folder, QUESTION)
    part(blocks, np.random.default_rng(0), 0)
    (folder / ".all-1.block.npz.123.part").write_text("cut short")
    (folder / "mine.npz").write_text("mine")
    blocks.clear()
    assert [p.name for p in folder.iterdir()] == ["mine.npz"]
    (folder / "mine.npz").unlink()
    (folder / ".question.json.123.part").write_text("cut short")
    Blocks(folder, QUESTION).clear()
    assert not folder.exists()


def test_another_process_may_take_the_folder_away(tmp_path: Path) -> None:
    blocks, rng = Blocks(tmp_path / "it", QUESTION), np.random.default_rng(0)
    part(blocks, rng, 0)
    Blocks(tmp_path / "it", QUESTION).clear()
    part(blocks, rng, 1)
    blocks.clear()
    blocks.clear()
    assert not list(tmp_path.iterdir())


def test_damaged_blocks_are_made_again(tmp_path: Path, caplog) -> None:
    """Whatever bit is flipped: the block is as it was, or it is made again."""
    blocks, expected = Blocks(tmp_path, QUESTION), part(Blocks(), np.random.default_rng(0), 0)
    part(blocks, np.random.default_rng(0), 0)
    file = tmp_path / "all-0.block.npz"
    good = file.read_bytes()
    for place in range(0, len(good), 11):
        file.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        rng = np.random.default_rng(0)
        np.testing.assert_array_equal(part(blocks, rng, 0), expected)
        assert rng.normal() == np.random.default_rng(0).normal(size=3)[2]
    file.write_bytes(good[:-9])
    with caplog.at_level(logging.WARNING, logger="causcade"):
        part(blocks, np.random.default_rng(0), 0)
    assert "is damaged" in caplog.messages[-1]
    assert file.read_bytes() == good


def test_no_pickle_is_read(tmp_path: Path) -> None:
    blocks = Blocks(tmp_path, QUESTION)
    np.savez(tmp_path / "a.block.npz", x=np.array([{}], dtype=object))
    assert blocks.take("a", lambda: {"x": np.ones(1)})["x"].tolist() == [1]


def test_without_a_folder_nothing_is_kept() -> None:
    blocks, made = Blocks(), count()
    for _ in range(2):
        blocks.take("a", lambda: {"x": np.array(next(made))})
    assert next(made) == 2
    assert not blocks.has("a")
    blocks.clear()


def test_time_to_go_is_told_once(tmp_path: Path, monkeypatch, caplog) -> None:
    clock = count(100, 6)
    monkeypatch.setattr(_blocks.time, "monotonic", lambda: float(next(clock)))
    blocks = Blocks(tmp_path, QUESTION)
    blocks.take("a", lambda: {"x": np.zeros(1)})
    blocks.plan(60, extra=90)
    blocks.take("a", lambda: {"x": np.zeros(1)}, steps=10)  # is there
    with caplog.at_level(logging.INFO, logger="causcade"):
        for _ in range(10):
            blocks.step(2)
    # 4 measured steps of size 2 and 6 s; 60 - 10 - 5 * 2 are left
    assert caplog.messages == [f"about {(40 * 3 + 90) / 60:.1f} min to go"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (119, "119 s"), (150, "2.5 min"), (5000, "83 min"), (9000, "2.5 h"), (90000, "25 h")],
)
def test_durations(seconds, text) -> None:
    assert _blocks._duration(seconds) == text


def test_checksums_tell_shapes_types_and_borders() -> None:
    x = np.arange(4, dtype=np.float32)
    different = [
        [x],
        [x.reshape(2, 2)],
        [x.astype(float)],
        [x[:2], x[2:]],
        [x + 1],
        ["a", "b"],
        ["ab"],
        [x[:0]],
        [x[:0], x],
    ]
    assert len({checksum(parts) for parts in different}) == len(different)
    assert checksum([np.array(["a", "bc"]), np.arange(6).reshape(2, 3).T]) == checksum(
        [np.array(["a", "bc"], dtype=object), np.ascontiguousarray(np.arange(6).reshape(2, 3).T)]
    )


def test_questions_are_compared_as_json(tmp_path: Path) -> None:
    Blocks(tmp_path, {"pair": (1, 2)})
    Blocks(tmp_path, {"pair": (1, 2)})
    assert json.loads((tmp_path / "question.json").read_text()) == {"pair": [1, 2]}
