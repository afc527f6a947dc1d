"""Checkpoints and atomic writes: interruptions, damaged files, full disks."""

import errno
import os
import warnings

import pytest
import torch

from experiments.errors import UserError
from experiments.files import cache_folder, replacing
from experiments.models.weights import has_weights, save_weights, weights_file
from experiments.runs.checkpoint import load_checkpoint, save_checkpoint
from experiments.runs.execute import execute
from experiments.runs.run_files import read_run
from experiments.runs.training_loop import train
from tests.helpers.digits import ignore, tiny_run
from tests.helpers.disk import files_at_most

STATE = {"weights": torch.arange(1000.0), "step": 3, "names": ["a", "b"], "scores": {"a": 0.5}}


class Stop(Exception):
    """An exception that stops a run."""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SMARTFRZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    save_checkpoint(STATE, tmp_path / "state.pt")
    loaded = load_checkpoint(tmp_path / "state.pt")
    assert loaded is not None
    assert torch.equal(loaded.pop("weights"), STATE["weights"])
    assert loaded == {key: value for key, value in STATE.items() if key != "weights"}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["state.pt"]


def test_there_is_none_before_the_first(tmp_path):
    assert load_checkpoint(tmp_path / "state.pt") is None


@pytest.mark.parametrize("interrupted", ["torch.save", "os.fsync", "os.replace"])
def test_the_old_checkpoint_survives_an_interrupted_new_one(tmp_path, monkeypatch, interrupted):
    save_checkpoint(STATE, tmp_path / "state.pt")

    def stop(*_):
        raise Stop

    monkeypatch.setattr(interrupted, stop)
    with pytest.raises(Stop):
        save_checkpoint({"step": 4}, tmp_path / "state.pt")
    monkeypatch.undo()
    loaded = load_checkpoint(tmp_path / "state.pt")
    assert loaded is not None and loaded["step"] == 3
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["state.pt"]


def damaged_contents(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "another file": b"not a checkpoint",
    }


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "another file"])
def test_a_damaged_checkpoint_is_set_aside_with_a_warning(tmp_path, damage):
    file = tmp_path / "state.pt"
    save_checkpoint(STATE, file)
    content = damaged_contents(file.read_bytes())[damage]
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=r"it cannot be read: .*renamed to state.pt.corrupt"):
        assert load_checkpoint(file) is None
    assert not file.exists()
    assert (tmp_path / "state.pt.corrupt").read_bytes() == content


def test_a_checkpoint_that_is_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"state": Evil()}, tmp_path / "state.pt")
    with pytest.warns(UserWarning, match=r"renamed to state\.pt\.corrupt"):
        assert load_checkpoint(tmp_path / "state.pt") is None
    assert not (tmp_path / "evil").exists()


def stopped_run():
    """The config of a run that was stopped in its second epoch, and its checkpoint."""
    config = tiny_run()

    def stop(run, curves):
        if curves.step == 15:
            raise Stop

    with pytest.raises(Stop):
        train(config, stop, ignore)
    return config, cache_folder("checkpoints") / f"{config.id}.pt"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The same run, uninterrupted, and its curves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMARTFRZ_CACHE", str(tmp_path_factory.mktemp("unbroken")))
        return train(tiny_run(), ignore, ignore)


@pytest.mark.parametrize("damage", ["truncated", "wrong keys", "no table", "another model"])
def test_a_run_with_a_damaged_checkpoint_is_repeated(unbroken, damage):
    expected, curves = unbroken
    config, checkpoint = stopped_run()
    state = torch.load(checkpoint)["state"]
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    elif damage == "wrong keys":
        save_checkpoint({"model": state["run"]["model"]}, checkpoint)
    elif damage == "no table":
        save_checkpoint([1, 2], checkpoint)  # type: ignore[arg-type]
    else:
        state["run"]["model"].popitem()
        save_checkpoint(state, checkpoint)
    with pytest.warns(UserWarning, match=r"renamed to .*\.pt\.corrupt"):
        run, again = train(config, ignore, ignore)
    assert again.loss == curves.loss and again.accuracy == curves.accuracy
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, expected.model.state_dict()[name])
    assert checkpoint.with_name(checkpoint.name + ".corrupt").exists()


def test_no_space_for_a_checkpoint_is_an_error_that_leaves_nothing(tmp_path):
    too_large = r"state.pt cannot be written.*File too large"
    with files_at_most(2000), pytest.raises(UserError, match=too_large):
        save_checkpoint(STATE, tmp_path / "state.pt")
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_full_device_is_an_error_that_leaves_nothing(tmp_path):
    partial = tmp_path / f"state.pt.{os.getpid()}.partial"
    partial.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"state.pt cannot be written.*No space left on device"):
        save_checkpoint(STATE, tmp_path / "state.pt")
    assert not os.path.lexists(partial)


def test_no_space_for_weights_is_an_error_that_leaves_nothing(cache):
    config = tiny_run()
    too_large = r"safetensors cannot be written.*File too large"
    with files_at_most(2000), pytest.raises(UserError, match=too_large):
        save_weights(config, torch.nn.Linear(100, 100), 0.5)
    assert not has_weights(config)
    assert list((cache / "weights").iterdir()) == []


def test_damaged_weights_are_set_aside_once_they_are_saved_again():
    config = tiny_run()
    save_weights(config, torch.nn.Linear(100, 100), 0.5)
    assert has_weights(config)
    file = weights_file(config)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=r"\.safetensors cannot be read .*counts as missing"):
        assert not has_weights(config)
    damaged = file.read_bytes()
    with pytest.warns(UserWarning, match=r"renamed to .*\.safetensors\.corrupt"):
        save_weights(config, torch.nn.Linear(100, 100), 0.5)
    assert has_weights(config)
    assert file.with_name(f"{file.name}.corrupt").read_bytes() == damaged


def test_a_run_s_checkpoint_is_gone_once_its_result_is_written(cache, tmp_path):
    config = tiny_run(epochs=1)
    execute(config, tmp_path / "runs", "make test", ignore, ignore)
    assert list((cache / "checkpoints").iterdir()) == []
    assert read_run(tmp_path / "runs" / f"{config.id}.json") is not None


def test_replacing_leaves_other_processes_files_alone(tmp_path, monkeypatch):
    file, processes = tmp_path / "data", iter([1, 2])
    monkeypatch.setattr(os, "getpid", lambda: next(processes))
    with replacing(file) as mine, replacing(file) as theirs:
        assert [mine.name, theirs.name] == ["data.1.partial", "data.2.partial"]
        mine.write_text("mine")
        theirs.write_text("theirs")
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["data"]


def test_replacing_writes_a_folder_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "above" / "data"

    def write(partial, last):
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "first").write_text("first")
        (partial / "last").write_bytes(last)

    too_large = r"above/data cannot be written.*File too large"
    with (
        files_at_most(2000),
        pytest.raises(UserError, match=too_large),
        replacing(folder) as partial,
    ):
        write(partial, bytes(10_000))
    assert list(folder.parent.iterdir()) == []
    with replacing(folder) as partial:
        write(partial, b"last")
    assert list(folder.parent.iterdir()) == [folder]
    assert (folder / "inner" / "first").read_text() == "first"


def test_a_checkpoint_removes_what_a_killed_process_left(tmp_path):
    for name in ("state.pt.1.partial", "other.pt.1.partial"):
        (tmp_path / name).write_bytes(b"half a checkpoint")
    save_checkpoint(STATE, tmp_path / "state.pt")
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert files == ["other.pt.1.partial", "state.pt"]


def test_another_number_of_processes_does_not_go_on(cache):
    config = tiny_run(epochs=1)
    run, curves = train(config, ignore, ignore)
    checkpoint = cache / "checkpoints" / f"{config.id}.pt"
    state = run.state_dict()
    save_checkpoint(
        {"run": state | {"rngs": state["rngs"] * 8}, "curves": vars(curves)}, checkpoint
    )
    with pytest.raises(ValueError, match=r"from 8 processes.*1: continue with GPUS=8"):
        train(config, ignore, ignore)
    assert checkpoint.exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EIO, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("call", ["zipfile.ZipFile.testzip", "torch.load"])
def test_an_error_that_is_not_of_the_file_leaves_it_as_it_is(tmp_path, monkeypatch, call, error):
    file = tmp_path / "state.pt"
    save_checkpoint(STATE, file)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(call, fail)
    with pytest.raises(type(error)) as raised:
        load_checkpoint(file)
    assert raised.value is error
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["state.pt"]


def test_too_little_memory_for_a_run_s_state_leaves_its_checkpoint(monkeypatch):
    config, checkpoint = stopped_run()
    error = torch.OutOfMemoryError("CUDA out of memory.")

    def fail(*_):
        raise error

    monkeypatch.setattr("experiments.runs.setup.Run.load_state_dict", fail)
    with pytest.raises(torch.OutOfMemoryError):
        train(config, ignore, ignore)
    assert checkpoint.exists()


def test_damage_anywhere_is_damage(tmp_path):
    """Bytes are flipped all over the file: the state is read or set aside, without an error."""
    file = tmp_path / "state.pt"
    save_checkpoint({"weights": torch.arange(8.0)}, file)
    whole = file.read_bytes()
    for place in range(0, len(whole), 29):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = load_checkpoint(file)
        assert state is None or torch.equal(state["weights"], torch.arange(8.0))


def test_files_that_were_set_aside_are_kept_with_the_reasons(tmp_path):
    file = tmp_path / "state.pt"
    for content in (b"first", b"second"):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="not a zip file"):
            assert load_checkpoint(file) is None
    found = {path.name: path.read_bytes() for path in tmp_path.glob("state.pt*")}
    reasons = [found.pop("state.pt.corrupt.txt"), found.pop("state.pt.corrupt.2.txt")]
    assert found == {"state.pt.corrupt": b"first", "state.pt.corrupt.2": b"second"}
    assert all(b"it cannot be read: File is not a zip file" in reason for reason in reasons)


def test_a_checkpoint_of_other_code_is_not_continued(tmp_path, monkeypatch):
    file = tmp_path / "state.pt"
    monkeypatch.setattr("experiments.runs.checkpoint.code_hash", lambda: "0123")
    save_checkpoint(STATE, file)
    monkeypatch.setattr("experiments.runs.checkpoint.code_hash", lambda: "4567")
    with pytest.warns(UserWarning, match=r"code 0123 saved it.*renamed to state\.pt\.stale"):
        assert load_checkpoint(file) is None
    assert (tmp_path / "state.pt.stale").exists() and not file.exists()
