"""Tiny, randomly initialised models of many architectures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Architecture:
    """A model's constructor, and its inputs: the shape of an image batch, or names of token ids."""

    build: Callable[[], nn.Module]
    image: tuple[int, ...] = ()
    tokens: tuple[str, ...] = ()

    def inputs(self) -> Tensor | dict[str, Tensor]:
        """Random inputs."""
        if self.tokens:
            return {name: torch.randint(1, VOCABULARY, (2, 6)) for name in self.tokens}
        return torch.randn(self.image)


VOCABULARY = 30
CLASSES = 5


def loss_of(model: nn.Module, inputs: Any) -> Tensor:
    """Computes the sum of the cross-entropies of all outputs, including auxiliary heads."""
    output = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
    logits = getattr(output, "logits", output)
    every = [logits] + [o for o in output if o is not logits] if is_multiple(output) else [logits]
    return sum((_cross_entropy(each) for each in every), torch.zeros(()))


def is_multiple(output: Any) -> bool:
    return isinstance(output, tuple)


def _cross_entropy(logits: Tensor) -> Tensor:
    logits = logits.flatten(0, -2).float()
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[1])


def resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(128, CLASSES)
    return model


def bottleneck_resnet() -> nn.Module:
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, (1, 1, 1, 1), CLASSES, stem_width=8, channels=(4, 4, 8, 8))


def vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    with torch.device("meta"):  # the original classifier has 10^8 weights
        model = VGG(nn.Identity(), init_weights=False)
    model.features = make_layers([8, "M", 16, "M"], batch_norm=True)
    model.classifier = nn.Sequential(
        nn.Linear(16 * 7 * 7, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, CLASSES)
    )
    return model


def mobilenet() -> nn.Module:
    from torchvision.models import MobileNetV2

    blocks = [[1, 8, 1, 1], [6, 8, 2, 2], [6, 16, 1, 2]]
    return MobileNetV2(CLASSES, width_mult=0.5, inverted_residual_setting=blocks)


def densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(4, (2, 2), num_init_features=8, bn_size=2, num_classes=CLASSES)


def googlenet() -> nn.Module:
    from torchvision.models import GoogLeNet

    model = GoogLeNet(CLASSES, aux_logits=True, init_weights=False)
    model.inception5a = model.inception5b = nn.Identity()
    model.fc = nn.Linear(832, CLASSES)
    for auxiliary in (model.aux1, model.aux2):
        auxiliary.fc1 = nn.Linear(2048, 8)
        auxiliary.fc2 = nn.Linear(8, CLASSES)
    return model


def vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=CLASSES)


def swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 8, [2, 2], [2, 2], [2, 2], num_classes=CLASSES)


def convnext() -> nn.Module:
    from torchvision.models import ConvNeXt
    from torchvision.models.convnext import CNBlockConfig

    blocks = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    return ConvNeXt(blocks, num_classes=CLASSES, layer_scale=0.1)


def deit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        16, 8, num_classes=CLASSES, embed_dim=16, depth=2, num_heads=2, init_values=0.1
    )


def mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(CLASSES, img_size=16, patch_size=8, num_blocks=2, embed_dim=16)


def efficientnet() -> nn.Module:
    import timm

    return timm.create_model("test_efficientnet", num_classes=CLASSES)


def nfnet() -> nn.Module:
    import timm

    return timm.create_model("test_nfnet", num_classes=CLASSES)


_SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "num_labels": CLASSES, "bos_token_id": 0}


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        **_SIZES,
    )
    return BertForSequenceClassification(config)


def masked_bert() -> nn.Module:
    from transformers import BertForMaskedLM

    return BertForMaskedLM(bert().config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=8, eos_token_id=0, **_SIZES)
    )


def albert() -> nn.Module:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        **_SIZES,
    )
    return AlbertForSequenceClassification(config)


def t5() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, **_SIZES)
    )


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        **_SIZES,
    )
    return LlamaForCausalLM(config)


class TextEncoder(nn.Module):
    """PyTorch's own transformer and LSTM."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.encoder = nn.TransformerEncoder(block, 2, norm=nn.LayerNorm(16))
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        out, _ = self.lstm(self.encoder(self.embedding(input_ids)))
        return self.head(out[:, -1])


ARCHITECTURES = {
    "torchvision resnet": Architecture(resnet, (2, 3, 32, 32)),
    "torchvision vgg": Architecture(vgg, (2, 3, 32, 32)),
    "torchvision mobilenet_v2": Architecture(mobilenet, (2, 3, 32, 32)),
    "torchvision densenet": Architecture(densenet, (2, 3, 32, 32)),
    "torchvision googlenet": Architecture(googlenet, (2, 3, 64, 64)),
    "torchvision vit": Architecture(vit, (2, 3, 16, 16)),
    "torchvision swin": Architecture(swin, (2, 3, 16, 16)),
    "torchvision convnext": Architecture(convnext, (2, 3, 32, 32)),
    "timm resnet": Architecture(bottleneck_resnet, (2, 3, 32, 32)),
    "timm deit": Architecture(deit, (2, 3, 16, 16)),
    "timm mixer": Architecture(mixer, (2, 3, 16, 16)),
    "timm efficientnet": Architecture(efficientnet, (2, 3, 32, 32)),
    "timm nfnet": Architecture(nfnet, (2, 3, 32, 32)),
    "transformers bert": Architecture(bert, tokens=("input_ids",)),
    "transformers masked bert": Architecture(masked_bert, tokens=("input_ids",)),
    "transformers gpt2": Architecture(gpt2, tokens=("input_ids",)),
    "transformers albert": Architecture(albert, tokens=("input_ids",)),
    "transformers t5": Architecture(t5, tokens=("input_ids", "decoder_input_ids")),
    "transformers llama": Architecture(llama, tokens=("input_ids",)),
    "torch transformer": Architecture(TextEncoder, tokens=("input_ids",)),
}
