"""The feed-forward network: the plain sequence of its layers, with less memory."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lisa_backbone import feed_forward
from lisa_backbone.feed_forward import FeedForward


def pair(dtype=torch.float64):
    """The network and the plain sequence of its layers."""
    torch.manual_seed(0)
    network = FeedForward(6, 20).to(dtype)
    return network, nn.Sequential(*network)


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(feed_forward, 'MANY_VALUES', 1)


def test_training_gives_the_values_and_gradients_of_the_plain_sequence(many):
    """To the last bit: the same operations on the same values."""
    network, plain = pair()
    found = []
    for module in (network, plain):
        x = torch.linspace(-3, 3, 2 * 7 * 6, dtype=torch.float64).view(2, 7, 6).requires_grad_()
        y = module(x)
        found.append([y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradients_of_gradients(many):
    network, _ = pair()
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(network, x)


@pytest.mark.parametrize('chunk', [1, 50, 10**6])
def test_inference_by_chunks(many, monkeypatch, chunk):
    """14 tokens are 14, 7 and one chunk; sums of 20 products in another order differ by some roundings of 2^-53."""
    monkeypatch.setattr(feed_forward, 'CHUNK_VALUES', chunk)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    network, plain = pair()
    sizes = []
    network[1].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    x = torch.randn(2, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(x), rtol=0, atol=1e-14)
    assert sizes == {1: [1] * 14, 50: [2] * 7, 10**6: [14]}[chunk] + [2]  # the last is the plain sequence's


@pytest.mark.parametrize('frozen', [False, True])
def test_autocast(many, frozen):
    network, plain = pair(torch.float32)
    network.requires_grad_(not frozen)
    x = torch.randn(5, 6)
    with torch.autocast('cpu', torch.bfloat16):
        y, expected = network(x), plain(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    if not frozen:
        grads = [torch.autograd.grad(out.float().sum(), list(network.parameters())) for out in (y, expected)]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


class Calls(TorchDispatchMode):
    """Counts matrix products and GELUs."""

    def __init__(self):
        super().__init__()
        self.products = self.activations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.products += name in ('addmm', 'mm')
        self.activations += name == 'gelu'
        return func(*args, **(kwargs or {}))


def test_training_keeps_no_activations_and_computes_them_alone_again(many):
    network, plain = pair()
    for module, keeps, again in ((network, 0, 1), (plain, 1, 0)):
        x = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor)
            return tensor

        with Calls() as calls:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                y = module(x)
            y.sum().backward()
        activations = nn.functional.gelu(network[0](x))
        assert sum(t.shape == activations.shape and torch.equal(t, activations) for t in kept) == keeps
        assert (calls.activations, calls.products) == (1 + again, 6)


def test_few_values_are_kept_as_they_are():
    """There the time of the calls counts for more."""
    network, _ = pair()
    with Calls() as calls:
        network(torch.randn(9, 6, dtype=torch.float64)).sum().backward()
    assert calls.activations == 1


def test_names_of_the_weights_are_those_of_the_plain_sequence():
    network, plain = pair()
    assert list(network.state_dict()) == list(plain.state_dict()) == ['0.weight', '0.bias', '2.weight', '2.bias']
