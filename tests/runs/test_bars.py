"""Progress bars: drawn over on a terminal, a few lines in a file."""

import io
import time

import pytest

from scripts.runs.bars import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(file: io.StringIO, **words: object) -> str:
    for number in Bar(range(20), "work", file=file, mininterval=0, **words):
        time.sleep(0.01)
        if number == 10:
            Bar.write("a word between", file=file)
    return file.getvalue()


def test_a_log_gets_a_line_at_the_start_and_one_at_the_end_and_a_terminal_a_bar():
    log = drawn(io.StringIO())
    assert "\r" not in log and log.endswith("\n")
    first, between, last = log.splitlines()
    assert "0/20" in first and between == "a word between" and "20/20" in last
    assert drawn(Terminal()).count("\r") >= 20


def test_a_long_step_says_in_the_log_how_far_it_is_now_and_then(monkeypatch):
    monkeypatch.setattr("scripts.runs.bars.LOG_SECONDS", 0.06)
    log = drawn(io.StringIO())
    assert len(log.splitlines()) >= 4 and log.count("20/20") == 1


@pytest.mark.parametrize("words", [{"leave": False, "delay": 0.001}, {"disable": True}])
def test_bars_of_short_epochs_and_switched_off_ones_leave_nothing_in_the_log(words):
    assert drawn(io.StringIO(), **words) == "a word between\n"
