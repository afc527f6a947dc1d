"""Tests of language models whose embedding shares its weights with the head."""

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from smartfrz import BudgetPlan, Freezer, detach_tied_embeddings, find_layers
from tests.helpers.scripted import Scripted

IDS = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(0))
INPUTS = {"input_ids": IDS, "labels": IDS}


def gpt2(tied: bool = True) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 8}
    config = GPT2Config(vocab_size=50, tie_word_embeddings=tied, bos_token_id=0, **sizes)
    config.eos_token_id = 0
    return GPT2LMHeadModel(config).eval()  # no dropout


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model(**INPUTS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_the_shared_weights_train_by_the_head_alone():
    """The gradient of the shared weights is that of the head of an untied model."""
    tied, untied = gpt2(), gpt2(tied=False)
    untied.load_state_dict(tied.state_dict())
    expected = gradients(untied)
    assert not torch.equal(gradients(tied)["transformer.wte.weight"], expected["lm_head.weight"])
    tied.zero_grad()
    handles = detach_tied_embeddings(tied)
    found = gradients(tied)
    torch.testing.assert_close(found.pop("transformer.wte.weight"), expected["lm_head.weight"])
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)
    assert len(handles) == 1
    handles[0].remove()
    tied.zero_grad()
    both = expected["lm_head.weight"] + expected["transformer.wte.weight"]
    torch.testing.assert_close(gradients(tied)["transformer.wte.weight"], both)


def test_below_the_first_layer_that_trains_there_is_no_backward_pass():
    model = gpt2()
    detach_tied_embeddings(model)
    layers = find_layers(model, INPUTS)
    body = [layer.name for layer in layers if not layer.is_head]
    assert [layer.name for layer in layers if layer.is_head] == ["transformer.wte"]
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: body}), layers, example_inputs=INPUTS)
    counted = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            gradients(model)
        counted.append(counter.get_total_flops())
        freezer.step()
        optimizer.step()
        optimizer.zero_grad()
    # The head's weight and input gradients, on top of the forward pass, are all that is left.
    assert freezer.costs(body) < 0.5
    assert counted[1] / counted[0] == pytest.approx(freezer.costs(body), abs=0.05)


def test_a_budget_out_of_reach_for_a_tied_model_is_spent():
    model = gpt2()
    with pytest.raises(ValueError, match="cannot be reached"):
        Freezer(model, SGD(model.parameters(), lr=0.1), BudgetPlan(0.6, 20), example_inputs=INPUTS)
    detach_tied_embeddings(model)
    plan = BudgetPlan(0.6, 20)
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), plan, example_inputs=INPUTS)
    for _ in range(20):
        gradients(model)
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()
    assert freezer.compute_spent / 20 == pytest.approx(0.6, abs=0.02)


def test_a_model_without_shared_weights_is_an_error():
    with pytest.raises(ValueError, match="No embedding of the model shares"):
        detach_tied_embeddings(gpt2(tied=False))
