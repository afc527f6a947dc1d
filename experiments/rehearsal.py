"""Runs cut short, to try at any scale whether a table can be made."""

from dataclasses import replace

from experiments.config import RunConfig

EXAMPLES = 500
"""Training examples of a rehearsal: a hundredth of CIFAR."""
TEST_EXAMPLES = 100
BATCH_SIZE = 16
"""At most, so that an epoch has enough steps for several decisions."""


def rehearsed(config: RunConfig) -> RunConfig:
    """Returns a run with few examples, small batches and a single epoch; so is its pretraining.

    Args:
        config: the run.
    """
    source = config.pretraining
    if source is not None:
        epochs, examples = min(source.epochs, 1.0), _fewer(source.train_images, EXAMPLES)
        batch_size = min(source.batch_size, BATCH_SIZE)
        source = replace(source, epochs=epochs, train_images=examples, batch_size=batch_size)
    return replace(
        config,
        epochs=min(config.epochs, 1.0),
        batch_size=min(config.batch_size, BATCH_SIZE),
        train_images=_fewer(config.train_images, EXAMPLES),
        test_images=_fewer(config.test_images, TEST_EXAMPLES),
        curve_images=_fewer(config.curve_images, TEST_EXAMPLES),
        pretraining=source,
    )


def _fewer(examples: int, most: int) -> int:
    """The smaller number; 0 stands for all examples."""
    return min(examples or most, most)
