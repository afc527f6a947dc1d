"""The compute of runs contains the forward passes of the predictor's probe."""

from pathlib import Path

import pytest
import torch

from experiments.runs.training_loop import train
from smartfrz import AttentionPredictor
from smartfrz.cost import compute_spent
from smartfrz.predictor import WIDTH
from tests.helpers.digits import ignore, tiny_run


@pytest.mark.parametrize("compute", [None, 0.7])
def test_the_passes_of_the_probe_are_in_the_compute_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: float | None
) -> None:
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    AttentionPredictor(WIDTH, 8, 8, 4, encoding="outputs").save_pretrained(tmp_path / "outputs")
    options = {"predictor": str(tmp_path / "outputs"), "records_per_epoch": 5, "threshold": 1.0}
    options |= {} if compute is None else {"compute": compute}
    run, curves = train(tiny_run("smartfrz", epochs=6, options=options), ignore, ignore)

    last = max(run.freezer.frozen.values(), default=curves.step)
    records = 1 + min(last, curves.step - 1) // 2
    spent = compute_spent(run.freezer.events, curves.step, run.freezer.costs)
    spent += records * sum(map(len, run.batches.probe(32))) / run.config.batch_size / 3
    assert curves.flops == pytest.approx(spent * run.full_flops_per_step)
    if compute is not None:
        assert spent / run.total_steps == pytest.approx(compute, rel=0.02)
    steps = curves.step * run.full_flops_per_step_paper
    assert (curves.flops_paper > steps) == (compute is None)
