"""Tests of a run's table and picture, of a freezer and from a checkpoint."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from experiments.files import ROOT
from smartfrz import AttentionPredictor, Freezer, SmartFRZ
from smartfrz.inspect import __main__ as program
from smartfrz.inspect import load_run
from tests.helpers.scripted import Scripted
from tests.helpers.tied import Tied

RUNS = ROOT / "results/runs"


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def trained(policy: Any, steps: int = 12) -> Freezer:
    net = network()
    freezer = Freezer(net, SGD(net.parameters(), lr=0.1), policy)
    go_on(freezer, steps)
    return freezer


def go_on(freezer: Freezer, steps: int) -> None:
    for step in range(steps):
        torch.manual_seed(step)
        freezer.model(torch.randn(4, 4)).square().mean().backward()
        freezer.step()
        freezer.optimizer.step()
        freezer.optimizer.zero_grad()


def smartfrz(**settings: Any) -> SmartFRZ:
    predictor = AttentionPredictor.from_pretrained()
    return SmartFRZ(predictor, 2, threshold=0.0, min_records=3, **settings)


def rows_of(freezer: Freezer) -> dict[str, list[str]]:
    header, *rows, _ = str(freezer).splitlines()
    starts = [header.index(word) for word in ("layer", "parameters")]
    assert starts[0] == 0
    return {row.split()[0]: row.split()[1:] for row in rows}


def test_the_table_of_a_run():
    freezer = trained(Scripted({3: ["0"]}))
    assert rows_of(freezer) == {
        "0": ["40", "28.6%", "frozen", "3"],
        "2": ["72", "57.1%", "trains"],
        "4": ["18", "14.3%", "head"],
    }
    spent = (4 + 8 * freezer.costs(["0"])) / 12
    last = f"1 of 3 layers are frozen at step 12; compute so far: {spent:.2f} of full training's"
    assert str(freezer).splitlines()[-1] == last


def test_the_table_shows_the_last_probabilities():
    policy = smartfrz(guard=False)
    freezer = trained(policy)
    steps = [step for step, _ in policy.probabilities]
    assert steps == sorted(steps) and steps[0] == 0
    assert all(0 <= value <= 1 for _, values in policy.probabilities for value in values.values())
    last = {name: value for _, values in policy.probabilities for name, value in values.items()}
    assert last.keys() == {"0", "2"}
    for name, value in last.items():
        assert rows_of(freezer)[name][-1] == f"{value:.2f}"


def test_probabilities_are_shown_while_the_guard_postpones_decisions():
    policy = smartfrz()
    freezer = trained(policy)
    assert not freezer.frozen and len(policy.probabilities) == 6


def test_of_a_long_run_fewer_probabilities_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("smartfrz.policies.smartfrz.MOST_DECISIONS", 4)
    policy = smartfrz()
    trained(policy, steps=20)  # decisions at 0, 2, ... 18
    steps = [step for step, _ in policy.probabilities]
    assert len(steps) <= 4 and steps[0] == 0 and steps[-1] == 18
    assert steps == sorted(steps)


def test_a_resumed_run_has_the_earlier_probabilities():
    first = trained(smartfrz(guard=False), steps=6)
    again = trained(smartfrz(guard=False), steps=0)
    again.load_state_dict(first.state_dict())
    assert again.policy is not None and first.policy is not None
    assert again.policy.probabilities == first.policy.probabilities != []  # type: ignore[attr-defined]


def timed(monkeypatch: pytest.MonkeyPatch, times: Callable[[Freezer], float]) -> Freezer:
    """A run of 60 steps, each of which takes a given time."""
    freezer = trained(Scripted({25: ["0"], 30: ["2"]}), steps=0)
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    for _ in range(60):
        clock[0] += times(freezer)
        go_on(freezer, 1)
    return freezer


def test_it_says_if_steps_save_compute_but_no_time(monkeypatch):
    freezer = timed(monkeypatch, lambda freezer: 1.0)
    saved = 1 - freezer.costs(["0", "2"])
    *_, last = str(freezer).splitlines()
    assert f"saves {100 * saved:.0f}% of the compute and 0% of the time" in last
    assert "smartfrz.estimate" in last


def test_it_says_nothing_where_time_is_saved_or_nothing_is_frozen(monkeypatch):
    freezer = timed(monkeypatch, lambda freezer: freezer.costs([*freezer.frozen]))
    assert str(freezer).splitlines()[-1].startswith("2 of 3 layers are frozen")
    freezer = timed(monkeypatch, lambda freezer: 1.0)
    freezer.thaw()
    assert str(freezer).splitlines()[-1].startswith("0 of 3 layers are frozen")


def test_it_names_inputs_that_require_a_gradient():
    freezer = trained(Scripted({0: ["0"]}), steps=0)
    for _ in range(3):
        freezer.model(torch.randn(4, 4, requires_grad=True)).sum().backward()
        freezer.step()
        freezer.optimizer.step()
    assert "another tensor there requires a gradient" in str(freezer).splitlines()[-1]


def test_it_names_an_embedding_that_is_also_the_head(tmp_path):
    model = Tied()
    ids = torch.ones(2, 5, dtype=torch.long)
    optimizer = SGD(model.parameters(), lr=0.1)
    freezer = Freezer(model, optimizer, Scripted({0: ["body"]}), example_inputs=ids)
    model(ids).sum().backward()
    freezer.step()
    remark = str(freezer).splitlines()[-1]
    assert remark.startswith("The first layer, embedding, is a head")
    torch.save(freezer.state_dict(), tmp_path / "saved.pt")
    assert load_run(tmp_path / "saved.pt").remarks == [remark]


class Unguessable(nn.Module):
    """Takes a dictionary: no inputs can be guessed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"])


def test_where_the_compute_cannot_be_counted_it_is_left_out():
    from smartfrz import find_layers

    model = Unguessable()
    layers = find_layers(model, ({"x": torch.zeros(1, 4)},))
    freezer = Freezer(model, SGD(model.parameters(), lr=0.1), None, layers)
    assert rows_of(freezer)["net.2"] == ["72", "trains"]
    assert str(freezer).splitlines()[-1] == "0 of 3 layers are frozen at step 0"


@pytest.mark.parametrize("policy", [lambda: Scripted({3: ["0"]}), lambda: smartfrz(guard=False)])
def test_the_picture_of_a_run(policy: Callable[[], Any]):
    freezer = trained(policy())
    freezer.thaw([layer for layer in freezer.layers if layer.name == "0"])
    above, below = freezer.plot().axes[:2]
    assert [label.get_text() for label in above.get_yticklabels()] == ["0", "2"]
    marked = {each.get_label(): len(each.get_offsets()) for each in above.collections[-2:]}
    assert marked == {"freeze": sum(e[1] == "freeze" for e in freezer.events), "thaw": 1}
    has_map = len(above.collections) == 3
    assert has_map == bool(getattr(freezer.policy, "probabilities", ()))
    steps, spent = below.lines[0].get_data()
    assert (steps[0], steps[-1], spent[0]) == (0, 12, 0)
    assert spent[-1] == pytest.approx(freezer.compute_spent)


def test_before_the_first_step_there_is_a_picture_too():
    assert trained(smartfrz(), steps=0).plot().axes


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        trained(None).plot()


@pytest.mark.parametrize("policy", [lambda: Scripted({3: ["0"]}), lambda: smartfrz(guard=False)])
def test_from_a_checkpoint_it_looks_the_same(policy, tmp_path, monkeypatch, capsys):
    freezer = trained(policy())
    freezer.thaw([layer for layer in freezer.layers if layer.name == "0"])
    go_on(freezer, 2)
    shown = str(freezer)
    saved = {"model": freezer.model.state_dict(), "more": [{"freezer": freezer.state_dict()}]}
    torch.save(saved, tmp_path / "saved.pt")
    arguments = ["inspect", str(tmp_path / "saved.pt"), "--plot", str(tmp_path / "run.png")]
    monkeypatch.setattr(sys, "argv", arguments)
    program.main()
    assert capsys.readouterr().out == shown + "\n"
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    run = load_run(tmp_path / "saved.pt")
    steps, spent = freezer.plot().axes[1].lines[0].get_data()
    assert [run.compute_until(step) for step in steps] == list(spent)


def test_without_counted_compute_a_checkpoint_has_a_picture_too(tmp_path):
    freezer = trained(Scripted({3: ["0"]}))
    torch.save(freezer.state_dict(), tmp_path / "saved.pt")
    run = load_run(tmp_path / "saved.pt")
    assert run.compute_spent is None and run.frozen == {"0": 3}
    axes = program.plot(run).axes[1]
    assert [text.get_text() for text in axes.texts] == ["not counted"]


def test_a_run_of_the_tables(capsys, monkeypatch):
    file = min(file for file in RUNS.glob("*.json") if '"smartfrz"' in file.read_text())
    content = json.loads(file.read_text())
    monkeypatch.setattr(sys, "argv", ["inspect", str(file)])
    program.main()
    *rows, last = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == content["layers"]
    states = {row.split()[0]: row.split()[1:] for row in rows}
    for name, step in content["frozen"].items():
        assert states[name] == ["frozen", str(step)]
    assert last.startswith(f"{len(content['frozen'])} of {len(rows)} layers are frozen")
    assert last.endswith(f"{content['tflops'] / content['tflops_full']:.2f} of full training's")


def refused(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setattr(sys, "argv", ["inspect", str(path)])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_other_files_are_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    state = trained(None).state_dict()
    file = tmp_path / "saved.pt"
    assert "No such file" in refused(tmp_path / "none.pt", monkeypatch, capsys)
    (tmp_path / "empty").mkdir()
    assert "contains 0 states" in refused(tmp_path / "empty", monkeypatch, capsys)
    torch.save({"one": state, "other": state}, file)
    assert "contains 2 states" in refused(file, monkeypatch, capsys)
    torch.save({"freezer": state, "args": Namespace(lr=0.1)}, file)
    message = "Save freezer.state_dict() in a file of its own"
    assert message in refused(file, monkeypatch, capsys)
    file.write_text("no file of torch")
    assert message in refused(file, monkeypatch, capsys)
