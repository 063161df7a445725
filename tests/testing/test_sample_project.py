"""A project of a user's: its tests run by what is installed alone, and need neither litellm nor a connection."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).with_name("sample_project")


@pytest.mark.slow
def test_fifty_tests_of_a_users_need_no_litellm_and_no_network(tmp_path):
    """Copied to where nothing else is, as somebody else's repository would be."""
    shutil.copytree(PROJECT, tmp_path / "desk", ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=tmp_path / "desk", capture_output=True, text=True, timeout=120)
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None, ran.stdout
    assert int(passed[1]) >= 50
    assert " failed" not in ran.stdout
    assert "needed: modules [], connections []" in ran.stdout
