"""Tests of layer discovery: example inputs, given and guessed."""

import pytest
import torch
from torch import Tensor, nn

from smartfrz import find_layers
from tests.helpers.layers import Backwards, names


@pytest.mark.parametrize(
    "inputs", [torch.zeros(1, 3), (torch.zeros(1, 3),), {"x": torch.zeros(1, 3)}]
)
def test_inputs_can_be_a_tensor_a_tuple_or_a_mapping(inputs):
    assert names(find_layers(Backwards(), inputs)) == ["first", "second", "head"]


def test_inputs_that_cannot_be_guessed_are_asked_for():
    class TwoInputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Bilinear(3, 4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.mix(x, y)

    with pytest.raises(ValueError, match="example_inputs"):
        find_layers(TwoInputs())
    assert names(find_layers(TwoInputs(), (torch.zeros(1, 3), torch.zeros(1, 4)))) == ["mix"]


def test_the_error_names_what_was_tried_why_it_failed_and_what_to_write():
    model = nn.Sequential(nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ValueError) as caught:
        find_layers(model)
    for part in ("float32 (1, 5, 64, 64)", "float32 (1, 144)", "shapes cannot be multiplied"):
        assert part in str(caught.value)
    assert "example_inputs=torch.zeros(1, 5, 64, 64)" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert [layer.name for layer in find_layers(model, torch.zeros(1, 5, 8, 8))] == ["0", "2"]


def test_a_model_without_modules_to_guess_from_says_so():
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 2))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(
        ValueError, match=r"Bare has no module to guess inputs from.*example_inputs"
    ):
        find_layers(Bare())
