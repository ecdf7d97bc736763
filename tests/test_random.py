import numpy as np
import pytest
import torch

from causcade.simulate._random import numpy_generator, torch_generator


def draw(generator):
    return torch.rand(3, generator=generator)


def test_seed_gives_same_stream_as_manual_seed():
    expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(draw(torch_generator(7)), expected, rtol=0, atol=0)
    torch.testing.assert_close(draw(torch_generator(np.int64(7))), expected, rtol=0, atol=0)


def test_torch_generator_passes_through_and_goes_on():
    generator = torch.Generator().manual_seed(1)
    assert torch_generator(generator) is generator
    assert not torch.equal(draw(torch_generator(generator)), draw(torch_generator(generator)))


def test_numpy_generator_is_advanced():
    a, b = np.random.default_rng(3), np.random.default_rng(3)
    assert torch.equal(draw(torch_generator(a)), draw(torch_generator(b)))
    assert not torch.equal(draw(torch_generator(a)), draw(torch_generator(3)))
    assert a.bit_generator.state != np.random.default_rng(3).bit_generator.state


def test_none_is_fresh_and_leaves_global_state():
    before = torch.get_rng_state()
    assert not torch.equal(draw(torch_generator(None)), draw(torch_generator(None)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [torch_generator, numpy_generator])
@pytest.mark.parametrize("rng", [True, False, -1, 2**63, 1.5, "1", [1], np.bool_(True)])
def test_refuses(make, rng):
    with pytest.raises(ValueError, match="bad rng"):
        make(rng)


def test_refuses_generator_of_another_device():
    with pytest.raises(ValueError, match=r"bad rng.*'cpu'.*'meta'"):
        torch_generator(torch.Generator(), device="meta")


def test_numpy_from_torch_is_reproducible():
    a, b = (numpy_generator(torch.Generator().manual_seed(5)) for _ in range(2))
    assert a.random() == b.random()
    assert numpy_generator(4).random() == np.random.default_rng(4).random()
    own = np.random.default_rng(0)
    assert numpy_generator(own) is own
