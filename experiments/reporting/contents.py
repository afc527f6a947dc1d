"""Sections of the report, one for each result."""

from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """A result.

    Attributes:
        heading: heading in the report.
        name: name of its folder without the scale.
        target: command that produces it, without the scale.
        has_scale: whether the folder and the command have a scale.
    """

    heading: str
    name: str
    target: str
    has_scale: bool = True

    def folder(self, scale: str) -> str:
        """Returns the name of the folder under ``results/``."""
        return f"{self.name}-{scale}" if self.has_scale else self.name

    def command(self, scale: str) -> str:
        """Returns the command that produces the result."""
        return f"{self.target} SCALE={scale}" if self.has_scale else self.target


SECTIONS = (
    Section("Table 1: similarity-guided freezing (oracle)", "table1", "make table1"),
    Section("Table 2: four methods, fine-tuning", "table2", "make table2"),
    Section("Freezing policies, with controls and the oracle", "policies", "make policies"),
    Section("Freezing policies before convergence", "unconverged", "make unconverged"),
    Section("Table 3: training from scratch", "table3", "make table3"),
    Section("Table 4: window length in records", "table4", "make table4"),
    Section("Table 5: number of sampled weights per layer", "table5", "make table5"),
    Section("Table 6: BERT on sentence tasks", "table6", "make table6"),
    Section("Table 7: DeiT-T from scratch", "table7", "make table7"),
    Section("Table 8: start of linear freezing", "table8", "make table8"),
    Section("Table 9: AutoFreeze's decisions per epoch", "table9", "make table9"),
    Section("Methods and controls at equal compute", "compute", "make compute"),
    Section("Learning rates of EfficientNet-Lite0", "rates_images", "make rates_images"),
    Section("Learning rates of MiniLM", "rates_text", "make rates_text"),
    Section("Learning rates and methods' own settings", "tune", "make tune"),
    Section("How far the front is frozen from the start", "plans", "make plans"),
    Section("Figure 3: gradients of all and of sampled weights", "fig3", "make fig3"),
    Section("Figure 4: CKA over time", "fig4", "make fig4"),
    Section("Figure 5: memory and frozen layers over time", "fig5", "make fig5"),
    Section("Choosing a freezing threshold", "thresholds", "make thresholds"),
    Section("Comparing convergence predictors", "evidence", "make evidence"),
    Section("What freezing a group of layers costs", "counterfactual", "make counterfactual"),
    Section("Attention over time (Figure 2a)", "attention", "make attention"),
    Section("Appendix C: overhead", "overhead", "make overhead"),
    Section("Step time with frozen layers", "bench-step_time", "make bench", False),
    Section("Whole runs: time saved per compute saved", "bench-whole_runs", "make bench", False),
    Section("Whole runs with cached features", "bench-cached_features", "make bench", False),
    Section("Compiled steps", "bench-compiled_steps", "make bench", False),
    Section("Saved activations", "bench-saved_activations", "make bench", False),
    Section("A language model", "bench-language_model", "make bench", False),
    Section("Bookkeeping", "bench-bookkeeping", "make bench", False),
    Section("Bookkeeping in steps without a decision", "bench-idle_steps", "make bench", False),
    Section("Communication", "bench-communication", "make bench", False),
    Section("Step time, small batches on a GPU", "bench-small_steps", "make gpu", False),
    Section("Steps as CUDA graphs on a GPU", "bench-captured_steps", "make gpu", False),
    Section("Peak memory on a GPU", "bench-peak_memory", "make gpu", False),
)


def sections(results: Path) -> list[Section]:
    """Returns the sections of the report; a benchmark has one for each GPU it was run on.

    Args:
        results: the folder of all results.
    """
    return [each for section in SECTIONS for each in _on_all_devices(section, results)]


def _on_all_devices(section: Section, results: Path) -> list[Section]:
    if section.has_scale:
        return [section]
    on_gpus = []
    for folder in sorted(results.glob(f"{section.name}-*")):
        gpu = folder.name.removeprefix(f"{section.name}-").replace("-", " ").upper()
        heading = f"{section.heading} ({gpu})"
        on_gpus.append(replace(section, heading=heading, name=folder.name, target="make gpu"))
    is_for_gpus_only = section.target == "make gpu"
    return on_gpus if on_gpus and is_for_gpus_only else [section, *on_gpus]
