"""Names of layers, and a network that calls its modules in another order than it has them."""

from torch import Tensor, nn

from smartfrz import Layer


def names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def layer_of(model: nn.Module, layers: list[Layer]) -> dict[str, str]:
    """The name of the layer of each parameter of a model."""
    homes = {param: layer.name for layer in layers for param in layer.parameters()}
    return {name: homes[param] for name, param in model.named_parameters() if param in homes}


class Backwards(nn.Module):
    """Registers its modules in the reverse order of their use."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.second_norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.first_norm = nn.LayerNorm(4)
        self.first = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_norm(self.first(x))
        return self.head(self.second_norm(self.second(x)))
