"""environment.yml asks for what pyproject.toml asks for."""

import tomllib

import yaml

from experiments.files import ROOT


def test_conda_and_pip_users_get_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = {*project["dependencies"], *extras["experiments"], *extras["dev"]}

    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert python == f"python{project['requires-python']}"
    assert pip == "pip"
    assert packages["pip"][-1] == "--editable ."
    assert sorted(packages["pip"][:-1]) == sorted(asked)


def test_every_requirement_has_a_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["experiments"], *extras["dev"]]:
        assert ">=" in requirement
