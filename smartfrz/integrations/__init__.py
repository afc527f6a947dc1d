"""Callbacks that freeze layers in other packages' trainers, one module for each package.

Import the module of your trainer, such as ``smartfrz.integrations.transformers``: it imports that
package, and nothing else in the library imports it.
"""

__all__: list[str] = []
