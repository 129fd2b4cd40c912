"""What tests of workflows share: a runner in a folder of its own, with an environment that is the same everywhere."""

from __future__ import annotations

import pytest

from tests.workflow.runner import runner_in


@pytest.fixture
def runner(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")
    with runner_in(tmp_path) as made:
        yield made
