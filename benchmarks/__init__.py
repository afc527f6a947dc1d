"""Benchmarks of the cost and the savings of freezing, as ratios measured within one process."""
