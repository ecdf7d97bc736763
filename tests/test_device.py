from __future__ import annotations

import pytest
import torch

from causcade._device import free_memory, pick_device, pick_devices


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


@pytest.mark.parametrize(
    ("count", "accelerator", "devices", "expected"),
    [
        (0, "auto", "auto", ["cpu"]),
        (2, "cuda", 1, ["cuda:1"]),
        (0, "cpu", [0, 1], ["cpu", "cpu"]),
        (4, "auto", (1, 3), ["cuda:1", "cuda:3"]),
        (4, "cpu", range(3), ["cpu"] * 3),
    ],
)
def test_picks_several(cuda, count, accelerator, devices, expected):
    cuda(count)
    assert pick_devices(accelerator, devices) == expected


@pytest.mark.parametrize(
    ("devices", "kind", "text"),
    [
        ([], ValueError, r"different numbers of devices, such as \[0, 1\], not \[\]"),
        ([1, 1], ValueError, "different numbers"),
        (0.5, ValueError, "different numbers"),
        ([0, 2], RuntimeError, "devices=2 was asked for, but torch finds 2 CUDA"),
        ([0, "1"], ValueError, "number of a device"),
        ([[0], [1]], ValueError, "number of a device"),
    ],
)
def test_refuses_several(cuda, devices, kind, text):
    cuda(2)
    with pytest.raises(kind, match=text):
        pick_devices("auto", devices)


def test_refuses_names_of_several_on_the_cpu(cuda):
    cuda(0)
    with pytest.raises(ValueError, match="number of a device"):
        pick_devices("cpu", [0, -1])


@pytest.mark.parametrize(("limit", "free"), [("10000000", 9_500_000), ("max", 64_000 * 1024)])
def test_files_that_were_read_do_not_count_as_used_memory(monkeypatch, limit, free):
    """Of a container: a screen that was read from the disk leaves its pages behind."""
    told = {
        "/proc/meminfo": "MemTotal: 99000 kB\nMemAvailable:  64000 kB\n",
        "/sys/fs/cgroup/memory.max": f"{limit}\n",
        "/sys/fs/cgroup/memory.current": "8000000\n",
        "/sys/fs/cgroup/memory.stat": "anon 300000\ninactive_file 7500000\nactive_file 200000\n",
    }
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: told[path.as_posix()])
    assert free_memory() == free
