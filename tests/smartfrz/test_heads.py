"""Tests of the heads: all layers with no other layer after them, and no others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from smartfrz import find_layers
from smartfrz.graph import Inputs
from tests.helpers.architectures import bert, gpt2, masked_bert

X = torch.ones(2, 4)


def heads(model: nn.Module, inputs: Inputs = X) -> list[str]:
    return [layer.name for layer in find_layers(model, inputs) if layer.is_head]


class Net(nn.Module):
    """Linear layers, and a function that computes the output from them and the input."""

    def __init__(self, names: str, output: Callable[..., Any]) -> None:
        super().__init__()
        self.output = output
        for name in names.split():
            self.add_module(name, nn.Linear(4, 4, bias=False))

    def forward(self, x: Tensor) -> Any:
        return self.output(x, *self.children())


def into_a_buffer(x: Tensor, body: nn.Module, a: nn.Module, b: nn.Module) -> Tensor:
    output = x.new_zeros(2, 8)
    output[:, :4] = a(body(x))
    output[:, 4:] = b(body(x))
    return output


def unused_output(x: Tensor, body: nn.Module, aux: nn.Module, head: nn.Module) -> Tensor:
    x = body(x)
    aux(x)
    return head(x)


def unused_last(x: Tensor, body: nn.Module, last: nn.Module, pooler: nn.Module) -> Tensor:
    x = last(body(x))
    pooler(x)
    return x


def features_beside(x: Tensor, first: nn.Module, last: nn.Module) -> tuple[Tensor, Tensor]:
    features = first(x)
    return features, last(features)


def detached_features(x: Tensor, body: nn.Module, head: nn.Module, aux: nn.Module) -> Any:
    features = body(x)
    return head(features), aux(features.detach())


@pytest.mark.parametrize(
    ("names", "output", "expected"),
    [
        ("body a b", lambda x, body, a, b: {"a": a(body(x)), "b": b(body(x))}, ["a", "b"]),
        ("body a b", into_a_buffer, ["a", "b"]),
        ("first second last", lambda x, f, s, la: la(f(x) + s(f(x))), ["last"]),
        ("first last", features_beside, ["last"]),
        ("left right", lambda x, le, r: (le(x) @ r(x).T).softmax(1), ["left", "right"]),
        ("body head aux", detached_features, ["head", "aux"]),
        ("proposals head", lambda x, p, h: h(x * p(x).detach()[:, :1]), ["proposals", "head"]),
        ("codes head", lambda x, c, h: h(X[c(x).argmax(1) % 2]), ["codes", "head"]),
        ("body aux head", unused_output, ["aux", "head"]),
        ("body last pooler", unused_last, ["last", "pooler"]),
    ],
    ids=[
        "two tasks",
        "two tasks in one tensor",
        "a residual connection",
        "features beside the output",
        "two towers",
        "an auxiliary head on detached features",
        "an output that the next layer takes detached",
        "an output that the next layer takes as an index",
        "an auxiliary output returned in training mode only",
        "a pooler whose output is dropped",
    ],
)
def test_heads_of_small_networks(names: str, output: Callable[..., Any], expected: list[str]):
    assert heads(Net(names, output)) == expected


def test_a_detached_buffer_that_is_written_to_carries_a_gradient():
    def output(x: Tensor, body: nn.Module, head: nn.Module) -> Tensor:
        buffer = x.new_zeros(2, 4).detach()
        buffer.copy_(body(x))
        return head(buffer)

    assert heads(Net("body head", output)) == ["head"]


def test_parametrized_heads():
    """Their weights enter the forward pass as results of other operators."""
    model = Net("body a b", lambda x, body, a, b: (a(body(x)), b(body(x))))
    for module in list(model.children()):
        parametrizations.weight_norm(module)
    assert heads(model) == ["a", "b"]


def test_weights_merged_with_a_low_rank_update_come_after_what_is_before_them():
    """W + BA, with W frozen and A and B trained."""

    def output(x: Tensor, *modules: nn.Linear) -> Tensor:
        for base, down, up in zip(*[iter(modules)] * 3, strict=True):
            x = x @ (base.weight + down.weight @ up.weight).T
        return x

    model = Net("base1 down1 up1 base2 down2 up2", output)
    model.base1.requires_grad_(False)
    model.base2.requires_grad_(False)
    assert heads(model) == ["down2", "up2"]


def test_pooled_regions_pass_no_gradient_to_the_regions():
    from torchvision.ops import roi_align

    def output(x: Tensor, features: nn.Module, box: nn.Module, mask: nn.Module) -> Tensor:
        maps = features(x)[:, None, None].expand(-1, -1, 4, -1)
        boxes = torch.cat([torch.zeros(2, 1), box(maps.mean((1, 2)))], dim=1)
        return boxes, mask(roi_align(maps, boxes, 4))

    assert heads(Net("features box mask", output)) == ["box", "mask"]


@pytest.mark.parametrize("backbone", ["mobilenet_v3_large", "resnet50"])
def test_deeplab_with_an_auxiliary_classifier(backbone: str):
    from torchvision.models import segmentation

    with torch.device("meta"):
        build = getattr(segmentation, f"deeplabv3_{backbone}")
        model = build(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)
        image = torch.empty(1, 3, 64, 64)
    assert heads(model, image) == ["classifier.4", "aux_classifier.4"]


def test_faster_r_cnn():
    """The region proposal network's outputs reach the second stage as detached coordinates."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as build

    model = build(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64)
    assert heads(model, ([torch.rand(3, 64, 64)],)) == [
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    ]


def test_clip_has_a_head_in_each_tower():
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size["num_attention_heads"] = 2
    text = {**size, "vocab_size": 30, "max_position_embeddings": 8, "bos_token_id": 0}
    image = {**size, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(
        text_config={**text, "eos_token_id": 2}, vision_config=image, projection_dim=8
    )
    inputs = {
        "input_ids": torch.ones(2, 6, dtype=torch.long),
        "pixel_values": torch.rand(2, 3, 16, 16),
    }
    model = CLIPModel(config)
    assert heads(model, inputs) == ["visual_projection", "text_projection"]
    layers = find_layers(model, inputs)
    assert any(model.logit_scale is param for layer in layers for param in layer.params)


def test_what_transformers_return_beside_the_output_makes_no_head():
    from transformers import BertModel

    ids = {"input_ids": torch.ones(2, 6, dtype=torch.long)}
    model = gpt2()
    model.config.use_cache = True  # the keys and values of all layers
    assert heads(model, ids) == ["transformer.wte"]
    config = bert().config
    config._attn_implementation = "eager"
    config.output_hidden_states = config.output_attentions = True
    assert heads(BertModel(config), ids) == ["pooler.dense"]
    assert heads(masked_bert(), ids) == ["bert.embeddings.word_embeddings"]


def test_features_of_all_stages_have_a_head_in_the_last_one():
    import timm

    model = timm.create_model("test_efficientnet", features_only=True)
    assert len(model.eval()(torch.rand(1, 3, 32, 32))) == 5
    layers = find_layers(model, torch.rand(1, 3, 32, 32))
    assert [layer.is_head for layer in layers] == [False] * (len(layers) - 1) + [True]
