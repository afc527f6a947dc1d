"""Tests of attention that keeps its inputs alone."""

import gc

import pytest
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertAttention

from smartfrz import restore_memory, save_memory
from smartfrz.memory import activation_bytes

BATCH, HEADS, WIDTH = 2, 4, 32


def sentences(tokens: int) -> Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, tokens, WIDTH, generator=seeded, requires_grad=True)


def timm_attention() -> nn.Module:
    torch.manual_seed(0)
    return Attention(WIDTH, HEADS, qkv_bias=True)


def bert_attention(dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, attention_probs_dropout_prob=dropout
    )
    config._attn_implementation = "sdpa"
    return BertAttention(config)


def result(model: nn.Module, x: Tensor, **options: object) -> Tensor:
    output = model(x, **options)
    return output[0] if isinstance(output, tuple) else output


def gradients(model: nn.Module, tokens: int, **options: object) -> list[Tensor]:
    """Gradients, and a random number drawn afterwards."""
    x = sentences(tokens)
    torch.manual_seed(2)
    loss = result(model, x, **options).square().sum()
    params = [param for param in model.parameters() if param.requires_grad]
    return [*torch.autograd.grad(loss, [x, *params]), torch.rand(1)]


def kept(model: nn.Module, tokens: int) -> int:
    x = sentences(tokens)
    return activation_bytes(lambda: result(model, x).sum(), [x, *model.parameters()])


@pytest.mark.parametrize("train_last", [False, True])
def test_a_fused_kernel_keeps_no_output(train_last: bool):
    model, tokens = timm_attention(), 10
    model.proj.requires_grad_(train_last)
    expected = gradients(model, tokens)
    before = kept(model, tokens)
    save_memory(model)
    assert all(map(torch.equal, gradients(model, tokens), expected))
    output, sums = 4 * BATCH * tokens * WIDTH, 4 * BATCH * HEADS * tokens
    assert kept(model, tokens) == before - output - sums
    restore_memory(model)
    assert kept(model, tokens) == before


def test_a_fused_kernel_keeps_its_output_if_sentences_are_long():
    """To compute it again would take longer than a linear layer of the same width."""
    model, tokens = timm_attention(), WIDTH // 2 + 1
    before = kept(model, tokens)
    save_memory(model)
    assert kept(model, tokens) == before


@pytest.mark.parametrize("train_last", [False, True])
@pytest.mark.parametrize("tokens", [10, 40])
def test_with_dropout_no_probabilities_are_kept(tokens: int, train_last: bool):
    model = bert_attention()
    model.output.dense.requires_grad_(train_last)
    expected = gradients(model, tokens)
    before = kept(model, tokens)
    save_memory(model)
    assert all(map(torch.equal, gradients(model, tokens), expected))
    probabilities = 4 * BATCH * HEADS * tokens * tokens
    assert kept(model, tokens) <= before - 3 * probabilities


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_with_a_mask_that_trains(dropout: float):
    model, tokens = bert_attention(dropout), 10
    mask = torch.randn(BATCH, 1, tokens, tokens, requires_grad=True)

    def gradient() -> list[Tensor]:
        torch.manual_seed(2)
        loss = result(model, sentences(tokens), attention_mask=mask).square().sum()
        return [*torch.autograd.grad(loss, [mask, *model.self.parameters()])]

    expected = gradient()
    save_memory(model)
    assert all(map(torch.equal, gradient(), expected))


@pytest.mark.parametrize("build", [timm_attention, bert_attention])
def test_in_bfloat16(build):
    model = build()
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(model, 10)
        save_memory(model)
        ours = gradients(model, 10)
    assert all(map(torch.equal, ours, expected))


def test_gradients_of_gradients():
    model = bert_attention(0.0)
    mask = torch.zeros(BATCH, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    model.double()
    save_memory(model)
    x = sentences(4).double().detach().requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model.eval()
        assert torch.autograd.gradgradcheck(lambda x: result(model, x, attention_mask=mask), x)


def test_a_backward_pass_may_be_repeated():
    model = timm_attention()
    save_memory(model)
    loss = model(sentences(10)).square().sum()
    params = tuple(model.parameters())
    first = torch.autograd.grad(loss, params, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, params), first))


class ScaledAttention(nn.Module):
    """Attention whose queries are changed in place after it."""

    def forward(self, x: Tensor) -> Tensor:
        query = 2 * x
        output = F.scaled_dot_product_attention(query, x, x)
        query.detach().zero_()
        return output


def test_an_input_that_is_changed_is_an_error_as_in_pytorch():
    ScaledAttention.__module__ = "timm.layers.attention"
    model = ScaledAttention()
    x = torch.randn(BATCH, HEADS, 4, 8, requires_grad=True)
    for prepare in (restore_memory, save_memory):
        prepare(model)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            model(x).sum().backward()


@pytest.mark.parametrize("build", [timm_attention, bert_attention])
def test_nothing_is_kept_alive_once_the_output_is_gone(build):
    model = build()
    save_memory(model)
    projected: list[StorageWeakRef] = []
    linear = model.qkv if hasattr(model, "qkv") else model.self.query
    linear.register_forward_hook(
        lambda module, args, output: projected.append(StorageWeakRef(output.untyped_storage()))
    )
    gc.disable()
    try:
        output = result(model, sentences(10))
        assert not projected[0].expired()
        del output
        assert projected[0].expired()
    finally:
        gc.enable()
