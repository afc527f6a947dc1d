"""Networks: outputs of all entries, and differences from torchvision's and timm's."""

import pytest
import torch
from torch import nn

from experiments.models.registry import NETWORKS, build_model, families, family

TEXT = [name for name in NETWORKS if name.startswith("bert") or name == "minilm"]
IMAGES = [name for name in NETWORKS if name not in TEXT]
SENTENCES = [name for name in TEXT if not name.endswith("_masked")]
PRETRAINED_AS = {name: each.pretrained_as for name, each in NETWORKS.items() if each.pretrained_as}


@pytest.mark.parametrize("name", SENTENCES)
def test_every_bert_is_of_one_family_and_classifies(name):
    assert family(name) in families()
    model = build_model(name, num_classes=7, image_size=0).eval()
    ids = torch.randint(1, 1000, (2, 5))
    inputs = {"token_type_ids": 0 * ids, "attention_mask": 0 * ids + 1}
    assert model(input_ids=ids, **inputs).shape == (2, 7)


@pytest.mark.parametrize("name", PRETRAINED_AS)
def test_a_masked_bert_has_all_weights_of_the_classifier_but_its_head(name):
    classifier = build_model(name, 7, 0).state_dict()
    masked = build_model(PRETRAINED_AS[name], 7, 0).state_dict()
    assert {key for key in classifier if not key.startswith("classifier.")} <= masked.keys()


@pytest.mark.parametrize("name", IMAGES)
def test_every_network_is_of_one_family_and_classifies(name):
    assert family(name) in families()
    model = build_model(name, num_classes=7, image_size=32).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(("image_size", "side"), [(32, 2), (64, 2), (224, 7)])
def test_the_last_maps_of_a_resnet_50_are_never_one_pixel(image_size, side):
    model = build_model("resnet50", 10, image_size).eval()
    shapes = []
    model.layer4.register_forward_hook(lambda module, args, out: shapes.append(out.shape[2:]))
    model(torch.zeros(1, 3, image_size, image_size))
    assert shapes == [(side, side)]


def test_residual_branches_of_a_resnet_50_begin_at_zero():
    model = build_model("resnet50", 10, 32)
    blocks = [module for module in model.modules() if hasattr(module, "bn3")]
    assert len(blocks) == 16
    assert all(isinstance(b.bn3, nn.BatchNorm2d) and not b.bn3.weight.any() for b in blocks)


def test_an_unknown_network_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match=r"no model 'resnet51'.*resnet50"):
        build_model("resnet51", 10, 32)
