"""Checkpoints under damage and on full disks: never half there, never silently wrong."""

import random
import resource
import signal
from contextlib import contextmanager

import pytest
import torch

from art_ext.engine import checkpoint
from art_ext.engine.checkpoint import Shelf
from art_ext.engine.journal import Journal, read_journal
from art_ext.engine.observe import EpochReport, RunInfo
from art_ext.errors import ArtExtError, CheckpointError, ModelError, StorageError
from art_ext.files import replacing, write_atomically

STATE = {"net": {"w": torch.arange(400.0)}, "epoch": 3, "names": ["a", None, 2.5]}


@contextmanager
def small_disk(size):
    """Files of this process cannot grow above a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


# Damage --------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_file_of_torchs(tmp_path):
    path = tmp_path / "best.pt"
    checkpoint.save(path, STATE)
    for state in (checkpoint.load(path), torch.load(path, weights_only=True)):
        assert torch.equal(state["net"]["w"], STATE["net"]["w"])
        assert (state["epoch"], state["names"]) == (3, ["a", None, 2.5])
    assert [found.name for found in tmp_path.iterdir()] == ["best.pt"]


def truncated(content, draw):
    return content[: draw.randrange(len(content))]


def flipped(content, draw):
    damaged = bytearray(content)
    damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


@pytest.mark.parametrize("damage", [truncated, flipped])
def test_every_damaged_checkpoint_is_noticed_and_the_one_before_it_used(damage, tmp_path, caplog):
    draw = random.Random(0)
    Shelf(tmp_path).put(1, {**STATE, "epoch": 1})
    Shelf(tmp_path).put(2, {**STATE, "epoch": 2})
    whole, last = (tmp_path / f"step-0000000{step}.pt" for step in (1, 2))
    before, content = whole.read_bytes(), last.read_bytes()
    for _ in range(100):
        last.write_bytes(damage(content, draw))
        caplog.clear()
        assert Shelf(tmp_path).newest()["epoch"] == 1
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"the checkpoint {last} is damaged")
        assert line.endswith("; the one before it is used")
        assert "\n" not in line
        assert not last.exists(), "a damaged one must not come after the ones written later"
    assert whole.read_bytes() == before
    last.write_bytes(content)
    assert Shelf(tmp_path).newest()["epoch"] == 2


def test_when_all_are_damaged_one_line_says_the_way_out(tmp_path):
    for step in (1, 2):
        Shelf(tmp_path).put(step, STATE)
        path = tmp_path / f"step-0000000{step}.pt"
        path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):  # and says it again
        with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged.*remove that folder"):
            Shelf(tmp_path).newest()


def test_an_empty_folder_holds_no_state(tmp_path):
    assert Shelf(tmp_path).newest() is None
    assert Shelf(tmp_path / "none").newest() is None


def test_a_write_that_was_cut_short_does_not_count(tmp_path):
    Shelf(tmp_path).put(1, STATE)
    (tmp_path / "step-00000002.pt.part").write_bytes(b"PK half")
    assert Shelf(tmp_path).newest()["epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_the_last_two_states_are_kept(tmp_path):
    for step in (8, 9, 10, 100):
        Shelf(tmp_path).put(step, STATE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010.pt", "step-00000100.pt"]


def test_what_is_missing_or_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(ModelError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "no.pt")
    with pytest.raises(ModelError, match="cannot be read"):
        checkpoint.load(tmp_path)
    torch.save(STATE, tmp_path / "stranger.pt")
    with pytest.raises(ModelError, match="is damaged"):
        checkpoint.load(tmp_path / "stranger.pt")


def test_a_checkpoint_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("code from a checkpoint ran",))

    checkpoint.save(tmp_path / "trap.pt", {"net": Trap()})
    with pytest.raises(ModelError, match=r"cannot be read: [^\n]*$"):
        checkpoint.load(tmp_path / "trap.pt")


# Full disks ----------------------------------------------------------------------------------------------------


def test_on_a_full_disk_the_old_checkpoint_stays(tmp_path):
    Shelf(tmp_path).put(1, STATE)
    size = (tmp_path / "step-00000001.pt").stat().st_size
    draw = random.Random(0)
    for _ in range(20):
        with small_disk(draw.randrange(size)), pytest.raises(StorageError) as full:
            Shelf(tmp_path).put(2, {**STATE, "epoch": 4})
        message = str(full.value)
        assert "step-00000002.pt could not be written (File too large)" in message
        assert "what was written before stays valid; free 0.0 MiB or more there" in message
        assert "\n" not in message
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]
        assert Shelf(tmp_path).newest()["epoch"] == 3


@pytest.mark.parametrize("content", [b"y" * 5000, "y" * 5000, memoryview(b"y" * 5000)])
def test_on_a_full_disk_the_old_report_stays(content, tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_atomically(path, "before")
    draw = random.Random(0)
    for _ in range(20):
        with small_disk(draw.randrange(5000)), pytest.raises(StorageError, match=r"report.html could not be written"):
            write_atomically(path, content)
        assert path.read_text() == "before"
        assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    write_atomically(path, content)
    assert path.stat().st_size == 5000


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.png"
    write_atomically(path, "before")

    def interrupted():
        with replacing(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert path.read_text() == "before"
    assert [found.name for found in tmp_path.iterdir()] == ["result.png"]


def test_on_a_full_disk_the_journal_keeps_whole_lines_and_the_run_stops(tmp_path):
    def report(epoch):
        return EpochReport(epoch, 9, epoch * 3, {"train/loss": 1 / epoch, "train/clean_accuracy": 0.123456789})

    journal = Journal(tmp_path)
    journal.run_start(RunInfo("run"))
    journal.epoch_end(report(1))
    size = journal.path.stat().st_size
    draw = random.Random(0)
    for _ in range(20):
        full = small_disk(size + draw.randrange(size - 20))
        with full, pytest.raises(StorageError, match=r"metrics.jsonl could not"):
            journal.epoch_end(report(2))
        assert [entry.epoch for entry in read_journal(journal.path)] == [1]
    journal.epoch_end(report(2))
    assert [entry.epoch for entry in read_journal(journal.path)] == [1, 2]
    assert issubclass(StorageError, ArtExtError)
