"""The fused kernels against plain torch in float64: on a GPU where there is one, else in Triton's interpreter."""

import math

import pytest
import torch

from lisa_backbone.attention import build_attention, lisa, pattern_sum, rpe

pytest.importorskip('triton', reason='Triton is not installed (requirements/dev.txt)')

from lisa_backbone.attention import pattern_kernels as kernels

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# Plain torch in float32 is this close to float64 as well: sums of a few thousand products, each rounded to 2^-24, and
# what features near zero amplify. Gradients are of sums over all tokens, which partly cancel.
VALUES, GRADIENTS = 1e-5, 2e-3


@pytest.fixture
def use(monkeypatch):
    """Choose between the kernels, on any device, and plain torch."""

    def choose(fused):
        for module in (pattern_sum, lisa, rpe):
            monkeypatch.setattr(module, 'fused', lambda x: kernels if fused and x.dtype != torch.float64 else None)

    return choose


def attention(heads, width, **options):
    torch.manual_seed(0)
    model = build_attention({'type': 'LiSAttention', **options}, heads * width, heads)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.to(DEVICE)


@pytest.mark.parametrize(
    ('grid', 'batch', 'heads', 'width', 'options'),
    [
        ((9, 11), 2, 2, 10, {}),
        ((7, 10), 1, 3, 6, {'num_patterns': 3, 'form': 'padded'}),
        ((5, 4, 6), 2, 1, 34, {'num_patterns': 3, 'feature_map': 'elu'}),
        ((130,), 3, 2, 2, {'num_patterns': 1, 'feature_map': 'squared_relu', 'form': 'padded'}),
        ((9, 11), 2, 2, 4, {'feature_map': 'softmax', 'rpe': 'table'}),
        ((9, 11), 1, 2, 4, {'rpe': {'type': 'continuous', 'slopes': None, 'hidden': 5}}),
        ((5, 17), 2, 2, 6, {}),  # of 17 the FFT takes 20
        ((9, 11), 2, 2, 5, {}),  # an odd width: plain torch
    ],
)
@pytest.mark.parametrize('block', [2**26, 1])
def test_values_and_gradients(use, monkeypatch, grid, batch, heads, width, options, block):
    monkeypatch.setattr(kernels, 'BLOCK_VALUES', block)
    model = attention(heads, width, **options)
    tokens = torch.randn(batch, math.prod(grid), heads * width, device=DEVICE)
    upper = torch.randn_like(tokens)
    found = {}
    for dtype in (torch.float64, torch.float32):
        use(dtype == torch.float32)
        model.to(dtype).zero_grad()
        x = tokens.detach().to(dtype, copy=True).requires_grad_()
        y = model(x, grid)
        y.backward(upper.to(dtype))
        with torch.no_grad():
            inferred = model(x, grid)
        found[dtype] = [y, inferred], [x.grad, *(parameter.grad for parameter in model.parameters())]
    for got, wanted, within in zip(found[torch.float32], found[torch.float64], (VALUES, GRADIENTS), strict=True):
        for mine, other in zip(got, wanted, strict=True):
            # Where all cancels, as the gradient of a query that has one pattern, what is left is the rounding of sums.
            assert (mine - other).abs().max() <= within * max(other.abs().max(), 0.1)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(use, dtype):
    """Under autocast and with half parameters: as near to float32 as a rounding of the result or two."""
    model, x = attention(2, 32), torch.randn(2, 99, 64, device=DEVICE)
    use(True)
    with torch.no_grad():
        wanted = model(x, (9, 11))
        with torch.autocast(DEVICE, dtype):
            cast = model(x, (9, 11))
        halved = model.to(dtype)(x.to(dtype), (9, 11))
    for found in (cast, halved):
        assert found.dtype == dtype
        assert (found - wanted).abs().max() <= 8 * torch.finfo(dtype).eps * wanted.abs().max()


def test_equal_keys_and_large_inputs_stay_finite(use):
    use(True)
    model = attention(2, 4)
    with torch.no_grad():
        for x in (torch.zeros(1, 99, 8), torch.full((1, 99, 8), 1e30), torch.full((1, 99, 8), -1e30)):
            assert model(x.to(DEVICE), (9, 11)).isfinite().all()
