from __future__ import annotations

import pytest
import torch

from causcade._device import pick_device


@pytest.fixture
def cuda(monkeypatch):
    def there(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return there


@pytest.mark.parametrize(
    ("count", "accelerator", "devices", "expected"),
    [
        (0, "auto", "auto", "cpu"),
        (0, "cpu", 0, "cpu"),
        (2, "auto", "auto", "cuda:0"),
        (2, "cuda", 1, "cuda:1"),
        (2, "gpu", 0, "cuda:0"),
        (2, "cpu", "auto", "cpu"),
    ],
)
def test_picks(cuda, count, accelerator, devices, expected):
    cuda(count)
    assert pick_device(accelerator, devices) == expected


@pytest.mark.parametrize(
    ("count", "accelerator", "devices", "kind", "text"),
    [
        (0, "tpu", "auto", ValueError, "accelerator must be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        (0, None, "auto", ValueError, "accelerator must be"),
        (0, "cuda", "auto", RuntimeError, "finds no CUDA device; use accelerator='auto' or 'cpu'"),
        (0, "gpu", "auto", RuntimeError, "finds no CUDA device"),
        (2, "cuda", 2, RuntimeError, r"devices=2 was asked for, but torch finds 2 CUDA"),
        (2, "cuda", -1, ValueError, "number of a device"),
        (2, "cuda", True, ValueError, "number of a device"),
        (2, "cuda", "1", ValueError, "number of a device"),
    ],
)
def test_refuses(cuda, count, accelerator, devices, kind, text):
    cuda(count)
    with pytest.raises(kind, match=text):
        pick_device(accelerator, devices)


def test_number_without_a_gpu_warns(cuda):
    cuda(0)
    with pytest.warns(UserWarning, match="devices=1 has no meaning on the CPU"):
        assert pick_device("auto", 1) == "cpu"
