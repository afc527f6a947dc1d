"""BERT, to classify sentences with and to pretrain (Devlin et al., 2019)."""

from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

_SIZES = {"bert_tiny": (2, 128), "bert_mini": (4, 256), "bert_base": (12, 768)}
"""Encoder layers, and their width."""


class BertClassifier(BertForSequenceClassification):
    """Maps sentences to logits, and to nothing else."""

    def forward(self, **inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Logits (B, classes) of ``input_ids``, ``token_type_ids``, ``attention_mask`` (B, L)."""
        return super().forward(**inputs).logits


class MaskedBert(nn.Module):
    """Maps sentences and positions in them to logits of the words there.

    Its parameters are named as the classifier's, down to the pooler, which it does not use.
    What has no part in its output does not train: DDP would wait for the gradients.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.cls = BertOnlyMLMHead(config)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        unused = [*self.bert.get_submodule("pooler").parameters(), self.cls.predictions.bias]
        for param in unused:
            param.requires_grad_(False)

    def forward(self, positions: Tensor, **inputs: Tensor) -> Tensor:
        """Logits (B, K, words) at ``positions`` (B, K); the other inputs are the classifier's."""
        states = self.bert(**inputs).last_hidden_state
        index = positions[..., None].expand(-1, -1, states.shape[2])
        return self.cls(states.gather(1, index))


def bert(name: str, num_classes: int) -> BertClassifier:
    """A classifier with random weights."""
    return BertClassifier(_config(name, num_classes))


def masked_bert(name: str) -> MaskedBert:
    """What the classifier of this name is pretrained as."""
    model = MaskedBert(_config(name))
    model.apply(model.bert._init_weights)
    return model


def published_weights() -> dict[str, Tensor]:
    """The published weights of BERT-base, by the names of the classifier's parameters."""
    state = BertModel.from_pretrained("bert-base-uncased").state_dict()
    return {f"bert.{name}": tensor for name, tensor in state.items()}


def _config(name: str, num_classes: int = 2) -> BertConfig:
    layers, width = _SIZES[name]
    return BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        num_labels=num_classes,  # type: ignore[call-arg]
    )
