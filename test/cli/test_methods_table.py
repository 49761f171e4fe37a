"""The table of methods in a terminal: nothing is cut, however narrow it is."""

from __future__ import annotations

from vlaforget_ros.cli.methods_table import parts

NAMES = ["", "vla_forget", "npo"]
COLUMNS = [["FC %", "100.0", "99.0"], ["TSR %", "98.1", "79.4"], ["RAD", "0.016", ""], ["s", "209", "117"]]


def test_a_wide_terminal_gets_one_table() -> None:
    assert parts(NAMES, COLUMNS, 120) == [[NAMES, *COLUMNS]]


def test_a_narrow_one_gets_several_with_the_names_in_each() -> None:
    # Names take 10 + 3 + 1, the columns 8, 8, 8 and 6.
    assert parts(NAMES, COLUMNS, 30) == [[NAMES, *COLUMNS[:2]], [NAMES, *COLUMNS[2:]]]
    assert parts(NAMES, COLUMNS, 29) == [[NAMES, COLUMNS[0]], [NAMES, COLUMNS[1]], [NAMES, *COLUMNS[2:]]]
    assert parts(NAMES, COLUMNS, 5) == [[NAMES, column] for column in COLUMNS]


def test_without_figures_there_is_no_table() -> None:
    assert parts(NAMES, [], 80) == []
