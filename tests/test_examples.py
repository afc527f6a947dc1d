"""The programs in examples/: each runs by the command in its docstring and prints its result."""

import ast
import os
import re
import subprocess
import sys

import pytest

from experiments.files import ROOT

EXAMPLES = ROOT / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def output_of(name: str, *before: str) -> str:
    """What a program prints, run without a GPU, from the root of the checkout."""
    run = subprocess.run(
        [sys.executable, *before, f"examples/{name}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def frozen_in(output: str) -> list[tuple[int, str]]:
    """The steps and layers of the lines that report a freeze."""
    found = re.findall(r"^step +(\d+): froze layer (\S+?),?(?: |$)", output, re.MULTILINE)
    return [(int(step), layer) for step, layer in found]


def test_own_loop():
    output = output_of("own_loop.py")
    frozen = frozen_in(output)
    # From the front, not before there is a history to decide from, and all that is left at the end.
    assert frozen and [layer for _, layer in frozen] == ["0", "3", "6"][: len(frozen)]
    assert frozen == sorted(frozen) and frozen[0][0] >= 20
    loss, count = re.findall(r"^loss ([\d.]+); (\d) of 3 layers are frozen$", output, re.MULTILINE)[
        0
    ]
    assert float(loss) < 0.5 and int(count) == len(frozen)


def test_own_policy():
    output = output_of("own_policy.py")
    assert [layer for _, layer in frozen_in(output)] == ["0", "3"]
    assert output.splitlines()[-1] == "still training: 6"


def test_timm_memory():
    output = output_of("timm_memory.py")
    kept = re.findall(r"^(.+): ([\d,]+) bytes of activations$", output, re.MULTILINE)
    full, ours, stock = (int(number.replace(",", "")) for _, number in kept)
    assert "everything trains" in kept[0][0]
    assert ours < 0.25 * full
    assert stock > 0.9 * full  # PyTorch keeps the inputs of frozen convolutions and norms
    steps, budget = re.findall(r"^(\d+) steps for the compute of ([\d.]+)", output, re.MULTILINE)[0]
    assert int(steps) > float(budget)


def test_distributed():
    output = output_of("distributed.py", *TORCHRUN)
    ranks = re.findall(r"^rank (\d), .+: (\{.+\})$", output, re.MULTILINE)
    assert [rank for rank, _ in ranks] == ["0", "1"]
    first, second = (ast.literal_eval(frozen) for _, frozen in ranks)
    assert first and first == second


def test_accelerate_loop():
    *events, count, compute = output_of("accelerate_loop.py").splitlines()
    saved = events.index("saved at step 30")
    assert 0 < saved < len(events) - 1, "layers froze before and after"
    frozen = frozen_in("\n".join(events))
    assert [step for step, _ in frozen[:saved]] < [30] <= [step for step, _ in frozen[saved:]]
    assert count == f"{len(frozen)} layers are frozen"
    assert compute == "compute: 0.70 of full training's"


def assert_budget_is_spent(output: str) -> None:
    line = re.search(r"^(\d+) of (\d+) layers .*: ([\d.]+) of full", output, re.MULTILINE)
    assert line is not None
    frozen, layers, compute = line.groups()
    assert 0 < int(frozen) < int(layers) and compute == "0.70"


def test_lightning_module():
    assert_budget_is_spent(output_of("lightning_module.py"))


@pytest.mark.slow
def test_trl_language_model():
    output = output_of("trl_language_model.py")
    assert_budget_is_spent(output)
    losses = [float(loss) for loss in re.findall(r"'loss': '([\d.]+)'", output)]
    assert len(losses) == 3 and losses[-1] < losses[0] / 2
    assert re.search(r"^transformer\.wte .* head$", output, re.MULTILINE)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_every_example_is_tested_and_documents_its_command(file):
    assert f"test_{file.stem}" in globals()
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert re.search(rf"^ +(python|torchrun .*) examples/{file.name}$", docstring, re.MULTILINE)
