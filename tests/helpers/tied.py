"""A language model whose embedding is its head, too."""

from torch import Tensor, nn


class Tied(nn.Module):
    """An embedding, a layer, and the product with the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(20, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.embedding(ids)) @ self.embedding.weight.T
