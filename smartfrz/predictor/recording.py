"""Recording of the histories that the predictor is trained on (Section 3.4)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smartfrz.cka import gram_vectors
from smartfrz.distributed import unwrap
from smartfrz.graph import Inputs, evaluating
from smartfrz.layers import Layer
from smartfrz.predictor.recorded import SUMS, History
from smartfrz.predictor.step_sums import StepSums
from smartfrz.predictor.tailoring import Tailor

if TYPE_CHECKING:
    from smartfrz.freezer import Freezer


class HistoryRecorder:
    """Policy: freezes nothing, and records the training data of the predictor.

    The paper's "well-trained model" (Sec. 3.4), to which the layers are compared, is here the final
    model of the recorded run itself, so no other model is needed. The Gram matrices of every record
    are kept and compared at the end of the run.

    Args:
        model: the model to train.
        probe: batches of inputs on which the layers are compared.
        interval: steps between two records.
        size: sampled weights per layer.
        probe_loss: computes the loss on held-out examples, for `History.probe_contribution`. It is
            called in eval mode, but with batch norms that use the statistics of the batch.
        is_pretrained: whether the run starts from pretrained weights, which is recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Iterable[Inputs],
        interval: int,
        size: int = 1024,
        *,
        probe_loss: Callable[[], Tensor],
        is_pretrained: bool = False,
    ) -> None:
        self.model, self.probe = model, list(probe)
        self.interval, self.is_pretrained = interval, is_pretrained
        self.probe_loss = probe_loss
        self._records: dict[str, list[Tensor]] = {name: [] for name in _RECORDED}
        self._losses: list[float] = []
        self._sums = StepSums()
        self._tailor = Tailor(size)

    def attach(self, freezer: "Freezer") -> None:
        """Takes the layers, their costs and the learning rates from the freezer."""
        self._freezer = freezer

    def is_due(self, step: int) -> bool:
        """Whether a record is made at this step."""
        return step % self.interval == 0

    def layers_to_freeze(self, active: Sequence[Layer], step: int) -> list[Layer]:
        """Records all layers but the heads; never freezes."""
        layers = [layer for layer in active if not layer.is_head]
        self._sums.add(layers, self._freezer.optimizer)
        if self.is_due(step):
            record = self._sums.take(layers, self._probe_gradients(layers))
            record["weights"] = self._tailor.all(layers).cpu()
            record["gram"] = gram_vectors(self.model, layers, self.probe).float().cpu()
            for name, rows in self._records.items():
                rows.append(record[name])
        return []

    def observe_loss(self, loss: float) -> None:
        """Adds the training loss of a step. Must be called once after every step."""
        self._losses.append(loss)

    def history(self) -> History:
        """Returns the records so far; fractions of the run refer to the steps so far."""
        recorded = {name: torch.stack(rows) for name, rows in self._records.items()}
        grams = recorded.pop("gram").transpose(0, 1)  # (L, R, ...)
        cka = (grams @ grams.transpose(1, 2)).permute(1, 2, 0)
        # The first record, at step 0, covers one loss, and each later one an interval of losses.
        losses = torch.tensor(self._losses)
        starts = torch.arange(len(cka)) * self.interval
        ends = (1 + starts).tolist()
        means = [losses[max(0, end - self.interval) : end].mean() for end in ends]
        layers = [layer for layer in self._freezer.layers if not layer.is_head]
        costs = self._freezer.costs
        return History(
            **recorded,
            cka=cka[:, -1].contiguous(),
            cka_between=cka.contiguous(),
            loss=torch.stack(means),
            progress=starts / max(1, len(losses)),
            cost=torch.tensor([1 - costs([layer.name]) for layer in layers]),
            numel=torch.tensor([sum(p.numel() for p in layer.params) for layer in layers]),
            is_pretrained=torch.tensor(self.is_pretrained),
        )

    def state_dict(self) -> dict[str, Any]:
        """Returns the records, the losses, and the sums since the last record."""
        records = {name: list(rows) for name, rows in self._records.items()}
        return {"records": records, "losses": list(self._losses), "sums": self._sums.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state returned by `state_dict`."""
        self._records = {
            name: [row.cpu() for row in state["records"][name]] for name in self._records
        }
        self._losses = list(state["losses"])
        self._sums.load_state_dict(state["sums"])

    def _probe_gradients(self, layers: Sequence[Layer]) -> dict[Tensor, Tensor]:
        params = [param for layer in layers for param in layer.params]
        model = unwrap(self.model)
        with evaluating(model), _batch_statistics(model), torch.enable_grad():
            found = torch.autograd.grad(self.probe_loss(), params, allow_unused=True)
        return {
            param: torch.zeros_like(param) if gradient is None else gradient
            for param, gradient in zip(params, found, strict=True)
        }


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Context manager in which batch norms in eval mode use the statistics of the batch.

    With running statistics, weights before a norm would change the loss by their scale, which in
    training the norm cancels.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    running = [(norm.running_mean, norm.running_var) for norm in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        yield
    finally:
        for norm, (mean, variance) in zip(norms, running, strict=True):
            norm.running_mean, norm.running_var = mean, variance


_RECORDED = ("weights", "gram", "gradient", "displacement", "probe_contribution", *SUMS)
