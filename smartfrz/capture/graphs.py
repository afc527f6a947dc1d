"""Work of a GPU that is recorded once and launched as a whole."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class CudaGraph:
    """A recorded function.

    Args:
        function: launches the work, without reading results, and returns tensors. It must have been
            called on the same stream before.
        stream: the stream.
        pool: memory that is shared with graphs that are not used any more.
    """

    def __init__(self, function: Callable[[], Any], stream: Any, pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self.output = function()

    def replay(self) -> None:
        """Launches the work; ``output`` then contains new values."""
        self._graph.replay()


def are_possible(model: nn.Module) -> bool:
    """Whether all parameters of a model are on a GPU."""
    return all(param.is_cuda for param in model.parameters())


def stream_and_pool() -> tuple[Any, Any]:
    """Returns a stream and memory for graphs."""
    return torch.cuda.Stream(), torch.cuda.graph_pool_handle()


@contextmanager
def on_stream(stream: Any) -> Iterator[None]:
    """Context manager that launches work on a stream, in order with that of the present one."""
    if stream is None:
        yield
        return
    present = torch.cuda.current_stream()
    stream.wait_stream(present)
    with torch.cuda.stream(stream):
        yield
    present.wait_stream(stream)
