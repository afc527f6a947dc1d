"""Tests of backward passes through a frozen prefix: ended where nobody needs them, counted else."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from smartfrz import ComputeBudget, FeatureCache, Freezer, find_layers
from tests.helpers.architectures import VOCABULARY, loss_of
from tests.helpers.scripted import Scripted

pytestmark = [
    pytest.mark.filterwarnings("error:The backward pass runs through"),
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated"),
]
WARNING = "The backward pass runs through"
SIZES = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=VOCABULARY, intermediate_size=16, **SIZES)
    return BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=3, n_head=2, pad_token_id=0)
    return GPT2ForSequenceClassification(config)


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(intermediate_size=16, image_size=8, patch_size=4, **SIZES)
    return ViTForImageClassification(config)


def lora(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    names = ["query", "value"] if "Bert" in type(model).__name__ else ["c_attn"]
    config = LoraConfig(r=2, target_modules=names, lora_dropout=0.1, task_type="SEQ_CLS")
    return get_peft_model(model, config)


MODELS = {
    "bert": bert,
    "gpt2": gpt2,
    "vit": vit,
    "bert with LoRA": lambda: lora(bert()),
    "gpt2 with LoRA": lambda: lora(gpt2()),
}


def enable(model: Any, how: str) -> None:
    if how == "hook alone":
        model.enable_input_require_grads()
    else:
        model.gradient_checkpointing_enable({"use_reentrant": how == "reentrant"})
        model.enable_input_require_grads()


def inputs_of(model: Any) -> dict[str, Tensor]:
    if hasattr(model.config, "image_size"):
        return {"pixel_values": torch.randn(2, 3, 8, 8)}
    return {"input_ids": torch.randint(1, VOCABULARY, (2, 6))}


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The three blocks of a transformer."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next(each for each in lists if len(each) == 3)


def freezer_of(model: nn.Module, inputs: Any, at: int = 0) -> Freezer:
    """A freezer that freezes all layers before the last block at one step."""
    layers = find_layers(model, inputs)
    last = set(blocks_of(model)[-1].modules())
    first = next(i for i, layer in enumerate(layers) if layer.modules[0] in last)
    script = {at: [layer.name for layer in layers[:first]]}
    optimizer = SGD([param for param in model.parameters() if param.requires_grad], lr=0.1)
    return Freezer(model, optimizer, Scripted(script), layers)


def gradients(model: nn.Module, inputs: Any, seed: int) -> tuple[set[int], dict[str, Tensor]]:
    """Runs a forward and backward pass; returns the blocks that ran backward, and all gradients."""
    torch.manual_seed(seed)
    ran: set[int] = set()
    handles = [
        block.register_full_backward_hook(lambda *_, number=number: ran.add(number))
        for number, block in enumerate(blocks_of(model))
    ]
    model.train()
    model.zero_grad()
    loss_of(model, inputs).backward()
    for handle in handles:
        handle.remove()
    params = model.named_parameters()
    return ran, {name: p.grad.clone() for name, p in params if p.grad is not None}


def update(freezer: Freezer) -> None:
    freezer.step()
    freezer.optimizer.step()


def trained(model: nn.Module, inputs: Any) -> Freezer:
    """A freezer that has frozen all layers before the last block after one step."""
    freezer = freezer_of(model, inputs)
    assert gradients(model, inputs, 0)[0] == {0, 1, 2}
    update(freezer)
    assert freezer.frozen
    return freezer


def check_gradients(freezer: Freezer, inputs: Any, blocks: set[int]) -> None:
    """Checks for the gradients of a copy that keeps its hooks, in three steps after the freeze."""
    for seed in range(1, 4):
        twin = copy.deepcopy(freezer.model)
        enable(twin, "hook alone")
        ran, ours = gradients(freezer.model, inputs, seed)
        all_ran, expected = gradients(twin, inputs, seed)
        assert (ran, all_ran) == (blocks, {0, 1, 2})
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
        update(freezer)


@pytest.mark.parametrize("how", ["hook alone", "not reentrant"])
@pytest.mark.parametrize("name", list(MODELS))
def test_a_hook_does_not_extend_the_backward_pass(name: str, how: str):
    model = MODELS[name]()
    enable(model, how)
    inputs = inputs_of(model)
    freezer = trained(model, inputs)
    check_gradients(freezer, inputs, {2})
    assert not freezer.input_gradients_are_computed


def test_reentrant_checkpointing_keeps_the_hook_that_it_needs():
    model = bert()
    enable(model, "reentrant")
    inputs = inputs_of(model)
    freezer = trained(model, inputs)
    with pytest.warns(UserWarning, match=f"{WARNING}.*use_reentrant=False"):
        gradients(model, inputs, 0)
        update(freezer)
    check_gradients(freezer, inputs, {0, 1, 2})
    assert freezer.input_gradients_are_computed


class Net(nn.Module):
    """Three linear layers, of which the second may be in a reentrant checkpoint.

    Args:
        front: what requires a gradient in front of the first layer.
    """

    def __init__(self, front: str = "", is_reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.prompt = nn.Parameter(torch.zeros(4))
        self.front, self.is_reentrant = front, is_reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.front == "prompt":
            x = x + self.prompt
        if self.front == "tensor in the forward pass":
            x = (2 * x).requires_grad_()
        x = self.first(x)
        x = checkpoint(self.second, x, use_reentrant=True) if self.is_reentrant else self.second(x)
        return self.head(x)


def freezer_of_net(net: Net) -> Freezer:
    """A freezer that freezes two of three layers at step 1; a prompt is in no layer."""
    layers = [
        replace(layer, params=tuple(param for param in layer.params if param is not net.prompt))
        for layer in find_layers(net, torch.zeros(1, 4))
    ]
    script = Scripted({1: ["first", "second"]})
    return Freezer(net, SGD(net.parameters(), lr=0.1), script, layers)


def step(net: nn.Module, freezer: Freezer, x: Tensor) -> int:
    """Trains one step; returns the FLOPs that PyTorch counts."""
    with FlopCounterMode(display=False) as counter:
        net(x).square().mean().backward()
    update(freezer)
    freezer.optimizer.zero_grad()
    return counter.get_total_flops()


def check_budget(net: Net, requires_grad: bool) -> None:
    """Checks for the budget that PyTorch's count spends, also in a resumed run."""
    freezer = freezer_of_net(net)
    budget = ComputeBudget(freezer, 10, torch.zeros(2, 4))
    full = 3 * 2 * 2 * (16 + 16 + 8)
    expected = 0.0
    for number in range(6):
        x = torch.randn(2, 4, requires_grad=requires_grad)
        flops = step(net, freezer, x)
        expected += flops / full if number > 1 else 1  # at first, 3 x forward by convention
        assert (x.grad is not None) == requires_grad
        budget.step()
        assert 10 * budget.spent == pytest.approx(expected)
    resumed = freezer_of_net(Net(net.front))
    resumed.model.load_state_dict(net.state_dict())
    resumed.load_state_dict(freezer.state_dict())
    again = ComputeBudget(resumed, 10, torch.zeros(2, 4))
    again.load_state_dict(budget.state_dict())
    for parts in ((net, freezer, budget), (resumed.model, resumed, again)):
        step(*parts[:2], torch.randn(2, 4, requires_grad=requires_grad))
        parts[2].step()
    assert again.spent == budget.spent


def test_no_gradient_of_the_inputs():
    check_budget(Net(), requires_grad=False)


class AddingToTheInputs(Net):
    """Adds its output to the dictionary of its inputs and returns that, as modules of
    sentence-transformers do."""

    def forward(self, features: Any) -> Any:
        if isinstance(features, Tensor):  # when the layers are found
            return super().forward(features)
        features["out"] = super().forward(features["x"])
        return features


def test_outputs_that_a_model_adds_to_its_inputs_are_no_inputs():
    net = AddingToTheInputs()
    freezer = freezer_of_net(net)
    for _ in range(5):
        net({"x": torch.randn(2, 4)})["out"].square().mean().backward()
        update(freezer)
    assert freezer.frozen and not freezer.input_gradients_are_computed


def test_inputs_that_require_a_gradient_receive_it_and_are_counted():
    check_budget(Net(), requires_grad=True)


def test_a_soft_prompt_trains_and_is_counted():
    net = Net("prompt")
    check_budget(net, requires_grad=False)
    assert net.prompt.any()


@pytest.mark.parametrize(
    ("net", "requires_grad", "remedy"),
    [
        (Net("tensor in the forward pass"), False, r"remove the requires_grad_\(\)"),
        (Net("tensor in the forward pass", is_reentrant=True), False, "use_reentrant=False"),
        (Net(is_reentrant=True), True, "use_reentrant=False"),
    ],
)
def test_other_causes_are_named_once(net: Net, requires_grad: bool, remedy: str):
    freezer = freezer_of_net(net)
    with pytest.warns(UserWarning, match=f"{WARNING}.*{remedy}") as caught:
        for _ in range(5):
            step(net, freezer, torch.randn(2, 4, requires_grad=requires_grad))
    assert [WARNING in str(each.message) for each in caught].count(True) == 1
    assert caught[-1].filename == __file__
    assert freezer.input_gradients_are_computed


def test_hooks_that_may_keep_the_tensor_stay():
    net, kept = Net(), []
    net.first.register_forward_hook(lambda _, args, output: kept.append(output.requires_grad_()))
    freezer = freezer_of_net(net)
    with pytest.warns(UserWarning, match=WARNING):
        for _ in range(3):
            step(net, freezer, torch.randn(2, 4))
    assert kept[-1].grad is not None


def test_layers_frozen_behind_one_that_trains_are_no_reason_to_warn():
    net = Net("tensor in the forward pass")
    freezer = Freezer(net, SGD(net.parameters(), 0.1), Scripted({0: ["second"]}), find_layers(net))
    for _ in range(3):
        step(net, freezer, torch.randn(2, 4))
    assert freezer.frozen


def require_grad(module: nn.Module, args: Any, output: Tensor) -> None:
    output.requires_grad_(True)


def test_hook_in_a_compiled_model():
    net = Net()
    net.first.register_forward_hook(require_grad)
    compiled = torch.compile(net, backend="eager")
    script = Scripted({0: ["first"]})
    freezer = Freezer(compiled, SGD(net.parameters(), 0.1), script, find_layers(net))
    for _ in range(2):
        step(compiled, freezer, torch.randn(2, 4))
    outputs: list[Tensor] = []
    net.first.register_forward_hook(lambda _, args, output: outputs.append(output))
    net(torch.randn(2, 4))
    assert not outputs[0].requires_grad
    assert not freezer.input_gradients_are_computed


def test_the_feature_cache_cuts_behind_the_hook():
    model = bert()
    enable(model, "hook alone")
    inputs = inputs_of(model)
    freezer = trained(model, inputs)
    cached = FeatureCache(freezer, dropout="eval")
    cached([0, 1], **inputs)
    assert cached.cut == "bert.encoder.layer.1"


def test_a_resumed_run_removes_the_hook_after_its_first_step():
    model = bert()
    enable(model, "hook alone")
    inputs = inputs_of(model)
    state = trained(copy.deepcopy(model), inputs).state_dict()
    freezer = freezer_of(model, inputs)
    freezer.load_state_dict(state)
    assert gradients(model, inputs, 1)[0] == {0, 1, 2}
    update(freezer)
    assert gradients(model, inputs, 2)[0] == {2}
