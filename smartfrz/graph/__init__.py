"""Analysis of a model: a trace of its forward pass, the order of module calls, example inputs.

The layers to freeze, their cost and the prefix to skip are derived from it. Import the names in
``__all__``; everything else is internal.
"""

from smartfrz.graph.calls import Call, Source, last_owners
from smartfrz.graph.example_inputs import trace_with_guessed_inputs
from smartfrz.graph.experts import Experts, experts_of
from smartfrz.graph.forward_rules import Rule, Stock, add_rule, remove_rule, rules_of, without_rules
from smartfrz.graph.module_calls import ModuleCall, ModuleCalls, Shape, gpus_of
from smartfrz.graph.module_outputs import visit_outputs
from smartfrz.graph.tracing import (
    Inputs,
    call,
    evaluating,
    memory_of,
    storage_of,
    trace,
    without_fused_layers,
)

__all__ = [
    "Call",
    "Experts",
    "Inputs",
    "ModuleCall",
    "ModuleCalls",
    "Rule",
    "Shape",
    "Source",
    "Stock",
    "add_rule",
    "call",
    "evaluating",
    "experts_of",
    "gpus_of",
    "last_owners",
    "memory_of",
    "remove_rule",
    "rules_of",
    "storage_of",
    "trace",
    "trace_with_guessed_inputs",
    "visit_outputs",
    "without_fused_layers",
    "without_rules",
]
