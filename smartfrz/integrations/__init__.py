"""Callbacks that freeze layers in other packages' trainers, one module for each package.

Import the module of your trainer, such as ``smartfrz.integrations.transformers``: it imports that
package, and nothing else in the library imports it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

__all__: list[str] = []


@contextmanager
def requires(package: str) -> Iterator[None]:
    """Context manager for the import of a trainer: says how to install what is missing.

    Args:
        package: the trainer's package, and the extra of this one that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}. SmartFRZCallback for {package} needs it: pip install 'smartfrz[{package}]'.",
            name=error.name,
        ) from error
