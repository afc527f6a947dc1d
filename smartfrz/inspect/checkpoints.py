"""The run in a file: a checkpoint of a loop or of one of the trainers, or a run of the tables."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from smartfrz.inspect.run import LayerFacts, Run, run_in
from smartfrz.saved_state import from_text

_FILES = ("trainer_state.json", "meta.pt", "custom_checkpoint_*.pkl")
"""Files with the state in the checkpoint folders of transformers, Lightning and Accelerate."""


def load_run(path: Path) -> Run:
    """Returns the run in a file.

    Args:
        path: a file that ``torch.save`` has written, with the state of a `Freezer` anywhere in it,
            such as a checkpoint of Lightning; the ``trainer_state.json`` of transformers' Trainer;
            the folder of a checkpoint of transformers, Lightning or Accelerate; or a file of
            ``results/runs``, which has neither probabilities nor the sizes of the layers.

    Raises:
        ValueError: there is no state of a `Freezer`, there are several, or the file contains
            objects other than tensors, numbers and text, which might run code.
    """
    files = [file for name in _FILES for file in path.glob(name)] if path.is_dir() else [path]
    contents = [_content(file) for file in files]
    if contents and _is_of_a_table(contents[0]):
        return _run_of_a_table(contents[0])
    states = [state for content in contents for state in _states_in(content)]
    if len(states) != 1:
        raise ValueError(
            f"{path} contains {len(states)} states of a Freezer, and not one. Pass a file that "
            "torch.save has written with freezer.state_dict() in it, a trainer_state.json, or the "
            "folder of a checkpoint."
        )
    return run_in(states[0])


def _content(file: Path) -> Any:
    if file.suffix == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} contains more than tensors, numbers and text, or is no file of torch.save. "
            "Save freezer.state_dict() in a file of its own."
        ) from error


def _states_in(content: Any) -> Iterator[dict[str, Any]]:
    """Yields all states of a freezer in nested dictionaries and lists."""
    if isinstance(content, dict):
        if {"decided_by", "events", "record"} <= content.keys():
            yield content
        elif isinstance(content.get("saved"), str):
            yield from _states_in(from_text(content["saved"]))
        else:
            for value in content.values():
                yield from _states_in(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _states_in(value)


def _is_of_a_table(content: Any) -> bool:
    return isinstance(content, dict) and {"layers", "frozen", "tflops_full"} <= content.keys()


def _run_of_a_table(content: dict[str, Any]) -> Run:
    """Returns the run of a file that the harness has written. Thaws are not in it."""
    freezes = sorted((step, name) for name, step in content["frozen"].items())
    return Run(
        layers=[LayerFacts(name, None, False, None) for name in content["layers"]],
        steps=content["steps"],
        events=[(step, "freeze", name) for step, name in freezes],
        probabilities=(),
        step_costs=[],
        compute_spent=content["steps"] * content["tflops"] / content["tflops_full"],
    )
