"""kill -9 at any moment of `art-ext harden`, and the end is that of a run which was left alone.

ART_EXT_KILLS=20 tries more moments than the five of every day.
"""

import os
import random
import signal

import endings
import pytest

FIRST_STEP = 8
"""The moment after the first step; before it there is nothing to go on with."""
KILLS = int(os.environ.get("ART_EXT_KILLS", "5"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(what an uninterrupted run came to, how many moments it had)."""
    folder = tmp_path_factory.mktemp("whole")
    endings.finish(endings.arguments("run"), folder, endings.Moments(folder / "moments"))
    return endings.outcome(folder / "run"), int((folder / "moments").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_killed_at_a_random_moment(number, whole, tmp_path):
    expected, moments = whole
    at = FIRST_STEP if number == 0 else random.Random(number).randrange(FIRST_STEP, moments)
    killed = endings.start(endings.arguments("run"), tmp_path, endings.Moments(None, at))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert any((tmp_path / "run").glob("*/step-*.pt")) is (number > 0)
    printed = endings.finish(["resume", "run"], tmp_path)
    assert "Traceback" not in printed
    assert endings.same(endings.outcome(tmp_path / "run"), expected), f"killed at moment {at} of {moments}"
    assert (tmp_path / "run" / "result.json").exists()
    assert "is finished" in endings.finish(["resume", "run"], tmp_path)
