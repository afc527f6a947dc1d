"""Tests of what every test starts from."""

import torch

AT_IMPORT = torch.randn(4)


def test_tensors_made_at_import_are_the_same_in_every_run():
    assert torch.equal(AT_IMPORT, torch.randn(4, generator=torch.Generator().manual_seed(0)))
