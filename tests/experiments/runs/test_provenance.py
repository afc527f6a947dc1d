"""Provenance: the hash of the code, the commit, and what a run file keeps of them."""

import platform
import subprocess
from pathlib import Path

import pytest

from experiments.files import ROOT
from experiments.runs import provenance as module
from experiments.runs.execute import execute, run_file
from experiments.runs.provenance import RUN_CODE, code_hash, git_commit, provenance
from experiments.runs.run_files import read_run
from tests.helpers.digits import ignore, tiny_run

CODE = '''"""What it is for."""

SCALE = 2.0
"""A constant."""


def scaled(x: float) -> float:
    """Scales a number."""
    # Why it is scaled.
    return SCALE * x
'''


def hash_of(folder: Path, code: str) -> str:
    """Of a folder with a package and a module beside it."""
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "a.py").write_text(code)
    (folder / "b.py").write_text("x = 1\n")
    (folder / "package" / "notes.md").write_text("Not code.")
    return code_hash(("package", "b.py"), folder)


@pytest.mark.parametrize(
    "same",
    [
        CODE.replace("# Why it is scaled.\n", "# For another reason.\n"),
        CODE.replace("Scales a number.", "Another docstring."),
        CODE.replace('    """Scales a number."""\n', ""),
        CODE.replace('"""A constant."""\n', ""),
        CODE.replace("SCALE * x", "(SCALE\n        * x)"),
    ],
)
def test_comments_docstrings_and_layout_make_no_difference(tmp_path, same):
    assert same != CODE
    assert hash_of(tmp_path / "one", CODE) == hash_of(tmp_path / "two", same)


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("2.0", "2.5"),
        CODE.replace("SCALE * x", "SCALE + x"),
        CODE.replace("scaled", "rescaled"),
        CODE.replace("SCALE * x", "'SCALE * x'"),
        CODE + "\n\nscaled(1.0)\n",
    ],
)
def test_any_other_change_makes_one(tmp_path, other):
    assert hash_of(tmp_path / "one", CODE) != hash_of(tmp_path / "two", other)


def test_so_does_the_name_of_a_file(tmp_path):
    before = hash_of(tmp_path / "one", CODE)
    hash_of(tmp_path / "two", CODE)
    (tmp_path / "two" / "package" / "a.py").rename(tmp_path / "two" / "package" / "c.py")
    module._code_hash.cache_clear()
    assert code_hash(("package", "b.py"), tmp_path / "two") != before


def test_code_that_changes_meanwhile_is_not_what_a_process_runs(tmp_path):
    before = hash_of(tmp_path, CODE)
    (tmp_path / "b.py").write_text("x = 2\n")
    assert code_hash(("package", "b.py"), tmp_path) == before
    assert code_hash(code=("package", "b.py"), root=tmp_path) == before
    module._code_hash.cache_clear()
    assert code_hash(("package", "b.py"), tmp_path) != before


def test_a_run_file_keeps_the_hash_of_all_that_it_depends_on(tmp_path):
    config = tiny_run(epochs=1)
    execute(config, tmp_path, "make test", ignore, ignore)
    run = read_run(run_file(config, tmp_path))
    assert run is not None and run["code"] == code_hash()
    for place in RUN_CODE:
        assert (ROOT / place).exists()
    drawing = ("experiments/reporting", "experiments/tables", "experiments/studies", "scripts")
    assert not any(place.startswith(drawing) for place in RUN_CODE)


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    run = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_results_that_change_make_the_commit_not_dirty_but_code_does(tmp_path, monkeypatch):
    for name in ("smartfrz/a.py", "results/table.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("before\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All.")
    monkeypatch.setattr(module, "ROOT", tmp_path)

    def commit() -> str:
        git_commit.cache_clear()
        return git_commit()

    clean = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert commit() == clean
    (tmp_path / "results" / "table.md").write_text("after\n")
    assert commit() == clean
    (tmp_path / "smartfrz" / "a.py").write_text("after\n")
    assert commit() == clean + "+"
    monkeypatch.setattr(module, "ROOT", tmp_path.parent)
    assert commit() == "unknown"
    git_commit.cache_clear()


def test_runs_of_one_command_have_one_commit_whatever_is_edited_or_written_meanwhile(
    tmp_path, monkeypatch
):
    """The modules that a process has loaded do not change when their files do."""
    (tmp_path / "smartfrz").mkdir()
    (tmp_path / "smartfrz" / "a.py").write_text("before\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All.")
    clean = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    git_commit.cache_clear()

    def edit(run, curves):
        (tmp_path / "smartfrz" / "a.py").write_text("after\n")

    configs = [tiny_run(epochs=0.1), tiny_run(epochs=0.1, seed=1)]
    for config in configs:
        execute(config, tmp_path / "results", "make test", edit, ignore)
    runs = [read_run(run_file(config, tmp_path / "results")) for config in configs]
    git_commit.cache_clear()
    assert [run["git"] for run in runs] == [clean, clean]
    assert len({run["code"] for run in runs}) == 1


def test_provenance_says_where_how_and_when():
    found = provenance("make table2")
    assert found.keys() == {"machine", "torch", "code", "git", "command", "date"}
    assert found["command"] == "make table2"


def test_processors_of_one_name_differ_by_family_and_model(tmp_path: Path) -> None:
    core = "model name\t: AMD EPYC\nmodel\t\t: {}\ncpu family\t: 25\nflags\t\t: a:b c\n\n"
    names = []
    for model in (1, 17):
        (tmp_path / "cpuinfo").write_text(2 * core.format(model))
        names.append(module._cpu_name(tmp_path / "cpuinfo"))
    assert names == ["AMD EPYC (family 25, model 1)", "AMD EPYC (family 25, model 17)"]


def test_a_processor_without_a_family_has_a_name_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU part\t: 0xd40\n")
    for info in (tmp_path / "cpuinfo", tmp_path / "none"):
        assert module._cpu_name(info) == (platform.processor() or platform.machine())
