"""What training costs under a set of frozen layers, counted from one traced forward pass."""

from collections.abc import Collection

from torch import nn

from smartfrz.graph import Call, Source


def forward_macs(calls: list[Call]) -> int:
    """Multiply-accumulates of the traced forward pass, normalisations left out."""
    return sum(p.macs for call in calls for p in call.products if not p.is_norm)


def training_flops(
    calls: list[Call], trains: Collection[nn.Parameter], as_in_paper: bool = False
) -> int:
    """FLOPs of one training step (2 x MACs) on the traced inputs.

    Every product costs its MACs once forward, and once more for each operand that needs a
    gradient: a weight that trains, or features that depend on one. So a frozen layer costs no
    weight gradient, and below the first layer that trains there is no backward pass. The gradient
    of the network's input, which autograd skips, is counted while the first layer trains, so that
    full training is 3 x forward, the usual convention. Products are convolutions, matrix products
    and attention, also those in linear and recurrent layers.

    Args:
        calls: from `trace`; the batch size that was traced is counted.
        trains: the parameters that are not frozen.
        as_in_paper: count as the paper's numbers do: normalisations (2 MACs per element) too, but
            not products without a weight (attention).

    Returns:
        FLOPs of forward and backward; the optimizer's are left out.
    """
    trainable = {id(param) for param in trains}
    needs: list[bool] = []
    untouched: list[bool] = []  # comes from the network's input and nothing else: a copy, a cut

    def needs_gradient(source: Source) -> bool:
        return needs[source] if isinstance(source, int) else id(source) in trainable

    def is_input(source: Source) -> bool:
        return untouched[source] if isinstance(source, int) else source is None

    macs = 0
    for call in calls:
        for product in call.products:
            has_weight = any(isinstance(s, nn.Parameter) for op in product.operands for s in op)
            if not (has_weight if as_in_paper else not product.is_norm):
                continue
            gradients = [any(map(needs_gradient, operand)) for operand in product.operands]
            if any(gradients):
                from_input = [any(map(is_input, operand)) for operand in product.operands]
                gradients = [a or b for a, b in zip(gradients, from_input, strict=True)]
            macs += product.macs * (1 + sum(gradients))
        needs.append(any(map(needs_gradient, call.inputs)))
        is_computed = bool(call.products) or not call.inputs
        untouched.append(not is_computed and all(map(is_input, call.inputs)))
    return 2 * macs
