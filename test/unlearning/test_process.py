"""What a lost edit's error quotes."""

import sys
from pathlib import Path

import pytest

from vlaforget_ros.errors import UnlearningError
from vlaforget_ros.unlearning.process import EditProcess


def test_the_error_quotes_this_run_and_not_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    log.write_text("the disk is full\n")
    script = "import sys; print('loading'); sys.stderr.write('no such base\\n'); sys.exit(3)"
    with pytest.raises(UnlearningError, match="ended with status 3") as caught:
        list(EditProcess([sys.executable, "-c", script], log).events())
    assert "loading" in str(caught.value)
    assert "no such base" in str(caught.value)
    assert "the disk is full" not in str(caught.value)
    assert log.read_text().startswith("the disk is full")
