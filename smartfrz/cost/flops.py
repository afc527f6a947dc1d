"""Training FLOPs for a set of frozen layers, counted from one traced forward pass."""

from collections.abc import Collection

from torch import nn

from smartfrz.graph import Call, Source


def forward_macs(calls: list[Call]) -> int:
    """Returns the multiply-accumulates of the traced forward pass, without normalisations."""
    return sum(p.macs for call in calls for p in call.products if not p.is_norm)


def training_flops(
    calls: list[Call],
    trains: Collection[nn.Parameter],
    as_in_paper: bool = False,
    input_gradients: bool = False,
) -> int:
    """Returns the FLOPs (2 x MACs) of one optimizer step on the traced inputs.

    Every product costs its MACs once in the forward pass, and once more for each operand that
    requires a gradient: a weight that is not frozen, or features that depend on one. A frozen layer
    therefore costs no weight gradient, and there is no backward pass below the first layer that
    trains, unless the inputs require a gradient. The gradient of the network's input, which
    autograd otherwise skips, is also counted while the first layer trains; this makes full training
    3 x forward, the usual convention. Products are convolutions, matrix products and attention,
    including those in linear and recurrent layers. A product of complex numbers counts as four. Of
    experts that the traced pass did not use, the cost is counted in expectation (`trace`). Other
    modules that it did not use, such as auxiliary heads in training mode, cost nothing in this
    count, although they train; `find_layers` warns of them.

    Args:
        calls: from `trace`, at the batch size to count.
        trains: the parameters that are not frozen.
        as_in_paper: whether to count as the paper does: with normalisations (2 MACs per element)
            and without products that have no weight (attention).
        input_gradients: whether the inputs require a gradient.

    Returns:
        FLOPs of the forward and backward pass, without those of the optimizer.
    """
    trainable = {id(param) for param in trains}
    needs: list[bool] = []
    untouched: list[bool] = []  # only a copy or a slice of the network's input

    def needs_gradient(source: Source) -> bool:
        if source is None:
            return input_gradients
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
        needs.append(any(map(needs_gradient, call.differentiable)))
        is_computed = bool(call.products) or not call.inputs
        untouched.append(not is_computed and all(map(is_input, call.inputs)))
    return 2 * macs
