"""All results, in the order in which they are reported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A result: its heading, the name of its folder without the scale, and what makes it."""

    heading: str
    name: str
    target: str
    has_scale: bool = True

    def folder(self, scale: str) -> str:
        """Name of the folder under ``results/``."""
        return f"{self.name}-{scale}" if self.has_scale else self.name

    def command(self, scale: str) -> str:
        """What makes it."""
        return f"{self.target} SCALE={scale}" if self.has_scale else self.target


SECTIONS = (
    Section("Table 1: similarity-guided freezing, the oracle", "table1", "make table1"),
    Section("Table 2: four methods, fine-tuning", "table2", "make table2"),
    Section("SmartFRZ beside rules, controls and the oracle", "policies", "make policies"),
    Section("The same where training has not converged", "unconverged", "make unconverged"),
    Section("Table 3: training from scratch", "table3", "make table3"),
    Section("Table 4: how many records are attended to", "table4", "make table4"),
    Section("Table 5: how many weights of a layer are seen", "table5", "make table5"),
    Section("Table 6: BERT on sentences", "table6", "make table6"),
    Section("Table 7: DeiT-T from scratch", "table7", "make table7"),
    Section("Table 8: when linear freezing begins", "table8", "make table8"),
    Section("Table 9: how often AutoFreeze decides", "table9", "make table9"),
    Section("Figure 3: sampled against all gradients", "fig3", "make fig3"),
    Section("Figure 4: CKA over time", "fig4", "make fig4"),
    Section("Figure 5: memory, and when layers freeze", "fig5", "make fig5"),
    Section("How soon to freeze", "thresholds", "make thresholds"),
    Section("Who tells best which layers are done", "evidence", "make evidence"),
    Section("What the attention looks at (Figure 2a)", "attention", "make attention"),
    Section("Appendix C: overhead", "overhead", "make overhead"),
    Section("Step time against what is frozen", "bench-step_time", "make bench", False),
    Section("Whole runs: time saved over compute saved", "bench-whole_runs", "make bench", False),
    Section("Compiled steps", "bench-compiled_steps", "make bench", False),
    Section("Saved activations", "bench-saved_activations", "make bench", False),
    Section("Bookkeeping", "bench-bookkeeping", "make bench", False),
    Section("Bookkeeping, nothing to decide", "bench-idle_steps", "make bench", False),
    Section("Communication", "bench-communication", "make bench", False),
    Section("Step time on a GPU", "bench-step_time-gpu", "make bench", False),
    Section("Step time on a GPU, small batches", "bench-small_steps-gpu", "make bench", False),
    Section("Peak memory on a GPU", "bench-peak_memory-gpu", "make bench", False),
    Section("Compiled steps on a GPU", "bench-compiled_steps-gpu", "make bench", False),
    Section("Bookkeeping on a GPU", "bench-bookkeeping-gpu", "make bench", False),
    Section("Bookkeeping on a GPU, nothing to decide", "bench-idle_steps-gpu", "make bench", False),
)
