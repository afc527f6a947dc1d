"""Tests of the callbacks where the trainer is not installed."""

import importlib
import sys

import pytest


@pytest.mark.parametrize("package", ["transformers", "lightning"])
def test_the_error_says_what_to_install(package: str, monkeypatch: pytest.MonkeyPatch):
    module = f"smartfrz.integrations.{package}"
    for name in [each for each in sys.modules if each.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'smartfrz\[{package}\]'"):
        importlib.import_module(module)
    sys.modules.pop(module, None)
