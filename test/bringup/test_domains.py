"""Graphs on one machine do not hear each other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vlaforget_ros.bringup import domains

CLAIM = "from vlaforget_ros.bringup.domains import own_domain; print(own_domain(), flush=True); input()"


def test_processes_side_by_side_have_domains_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A folder of locks of their own: another graph on this machine may take a domain at any moment.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    domains.own_domain.cache_clear()
    line = [sys.executable, "-c", CLAIM]
    started = [
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    claimed = {int(process.stdout.readline()) for process in started if process.stdout}
    assert len(claimed) == 4
    assert domains.own_domain() not in claimed
    assert domains.own_domain() == domains.own_domain()
    # Only what the processes have is left.
    monkeypatch.setattr(domains, "_DOMAINS", sorted(claimed))
    domains.own_domain.cache_clear()
    try:
        assert domains.own_domain() in claimed
    finally:
        domains.own_domain.cache_clear()
    for process in started:
        process.communicate("\n")
    # Their end gives them back.
    assert all(domains._claim(number) for number in claimed)


def test_a_domain_that_was_chosen_is_kept() -> None:
    chosen = {"ROS_DOMAIN_ID": "7"}
    domains.isolate(chosen)
    assert chosen == {"ROS_DOMAIN_ID": "7", "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    free = dict[str, str]()
    domains.isolate(free)
    assert 0 < int(free["ROS_DOMAIN_ID"]) < 102
    assert free["ROS_DOMAIN_ID"] != os.environ.get("ROS_DOMAIN_ID", "0")
