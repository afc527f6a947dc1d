"""Detection of what goes wrong silently in the steps after a freeze.

Import the names in ``__all__``; everything else is internal.
"""

from smartfrz.watches.watches import Watches

__all__ = ["Watches"]
