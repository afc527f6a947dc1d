"""Forward and backward pass as one CUDA graph, which is captured again after each freeze.

Import the names in ``__all__``; everything else is internal.
"""

from smartfrz.capture.backward import CapturedBackward

__all__ = ["CapturedBackward"]
