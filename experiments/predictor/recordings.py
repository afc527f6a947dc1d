"""Recording of the runs on which predictors are trained or evaluated."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from experiments.config import RunConfig
from experiments.files import cache_folder, write_text_atomic
from experiments.predictor.model_card import recordings_table
from experiments.runs.recording import history_file, is_recorded
from experiments.tables.queue import missing_prerequisites, run_missing

_README = """\
# Recorded runs

Data for training and evaluating convergence predictors: one safetensors file for each of the
{count} runs below, named by the run's id, {megabytes:,.0f} MB in total. `{command}` records the
missing ones; existing files are kept. Each file contains R records of L layers (all but the head)
in execution order:

| tensor | shape | content |
|---|---|---|
| `weights` | (R, L, sampled weights) | tailored weights (Section 3.2 of the paper) |
| `cka` | (R, L) | CKA between the layer's output and its output at the last record |
| `cka_between` | (R, R, L) | CKA between the layer's outputs at any two records |
| `gradient` | (R, L) | L1 norm of the gradient summed since the previous record |
| `gradient_square` | (R, L) | sum of the gradients' squared norms |
| `gradient_product` | (R, L) | sum of the dot products of each gradient with the one before |
| `contribution` | (R, L) | minus the sum of the dot products of steps and next batches' gradients |
| `own_contribution` | (R, L) | the same with the gradient of the step's own batch |
| `probe_contribution` | (R, L) | the same for all steps together, on held-out examples |
| `path` | (R, L) | sum of the steps' squared norms |
| `displacement` | (R, L) | squared norm of the sum of the steps |
| `lr` | (R, L) | sum of the steps' learning rates |
| `loss` | (R,) | mean training loss since the previous record |
| `progress` | (R,) | fraction of the run's steps that precede the record |
| `cost` | (L,) | fraction of full training's compute that freezing the layer alone saves |
| `numel` | (L,) | number of the layer's weights |
| `is_pretrained` | () | whether the run started from pretrained weights |

{table}
"""


def record_all(recordings: Sequence[RunConfig], runs: Path, command: str) -> None:
    """Executes the missing runs, pretraining first; each resumes from its last checkpoint."""
    todo = to_record(recordings, runs)
    print(f"{len(recordings)} recorded runs needed, {len(todo)} runs to do.")
    run_missing(recordings, todo, runs, command)
    write_readme(recordings, command)


def to_record(recordings: Sequence[RunConfig], runs: Path) -> list[RunConfig]:
    """Returns the runs still to record, preceded by the pretraining runs that they need."""
    missing = [config for config in recordings if not is_recorded(config)]
    return missing_prerequisites(missing, runs) + missing


def write_readme(recordings: Sequence[RunConfig], command: str) -> None:
    """Writes a README about the histories into their folder.

    Args:
        recordings: the runs, all of them recorded.
        command: the command that records them, ``make <spec> ...``.
    """
    size = sum(history_file(config).stat().st_size for config in recordings)
    text = _README.format(
        count=len(recordings),
        megabytes=size / 1e6,
        command=command,
        table=recordings_table([{"id": c.id, **asdict(c)} for c in recordings]),
    )
    name = command.split()[1]
    write_text_atomic(cache_folder("histories") / f"{name}.md", text)
