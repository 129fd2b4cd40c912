"""The search gives what scikit-learn's own search gives for the same candidates, to the bit, and decides while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from dagrid import ExecutionResult
from examples.search import workflow
from examples.search.__main__ import FAILED, FOUND, main
from examples.search.trials import Candidate, Scored, Task, best_of, digits, finer

pytestmark = pytest.mark.example

TASK = Task(samples=600, folds=3)
COSTS, GAMMAS = (0.1, 1.0, 10.0), (1e-4, 1e-3, 1e-2)


@pytest.fixture(scope="module", params=["thread?max_workers=2", "multiprocessing?max_workers=2"])
def result(request: pytest.FixtureRequest) -> ExecutionResult:
    """A search on threads, and one on processes."""
    run = workflow.graph(COSTS, GAMMAS).run(backend=request.param, rules=workflow.rules(TASK), progress=False)
    return run.raise_for_status()


def searched(candidates: Sequence[Candidate]) -> GridSearchCV:
    """Return what GridSearchCV finds, the candidates in this order."""
    settings = [{"C": [each.C], "gamma": [each.gamma]} for each in candidates]
    return GridSearchCV(SVC(), settings, cv=TASK.splitter(), n_jobs=1).fit(*digits(TASK.samples))


@pytest.mark.parametrize("name", ["coarse", "finer"])
def test_both_rounds_score_as_grid_search_does(result: ExecutionResult, name: str) -> None:
    """Every fold of every candidate, the means and the choice are equal, not nearly equal."""
    found: list[Scored] = result[f"{name}_scores"]
    assert [each.candidate for each in found] == result[f"{name}_grid"]
    theirs = searched(result[f"{name}_grid"])
    splits = np.array([theirs.cv_results_[f"split{fold}_test_score"] for fold in range(TASK.folds)]).T
    assert [each.scores for each in found] == [tuple(row) for row in splits]
    assert [each.mean for each in found] == list(theirs.cv_results_["mean_test_score"])
    best = best_of(found)
    assert (best.candidate.C, best.candidate.gamma) == (theirs.best_params_["C"], theirs.best_params_["gamma"])
    assert best.mean == theirs.best_score_


def test_the_second_round_is_chosen_by_the_first(result: ExecutionResult) -> None:
    """Its candidates lie around the best of the first, and the best of both is the answer."""
    first, second = result["coarse_scores"], result["finer_scores"]
    assert result["finer_grid"] == finer(first)
    assert best_of(first).candidate in result["finer_grid"]
    assert result["best"].mean == max(each.mean for each in (*first, *second))


def test_each_trial_is_a_node(result: ExecutionResult) -> None:
    """(candidates, each with its list of folds, its folds and its mean) of both rounds, two grids, two lists and the best."""
    assert len(result) == (9 + 9) * (1 + TASK.folds + 1) + 2 + 2 + 1
    trial = result["finer[2].fold[1]"]
    assert trial.scores == (result["finer_scores"][2].scores[1],)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a person runs it: both rounds as tables, the best, the profile and the page."""
    page = tmp_path / "search.html"
    arguments = ["--samples", "300", "--folds", "2", "--no-progress", "--profile", "--html", str(page)]
    assert main(arguments) == FOUND
    printed = capsys.readouterr().out
    assert "Round 2: around the best" in printed
    assert "best: C = " in printed
    assert "critical path" in printed
    assert "finer_scores" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--folds", "50"], "n_splits=50 cannot be greater"),
        (["--folds", "2", "--html", "none/search.html"], "none/search.html"),
    ],
)
def test_what_stopped_a_search_is_said(more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And not that the step which would have had the result is not there; what was found is shown before the page is written."""
    assert main(["--samples", "200", "--no-progress", *more]) == FAILED
    printed = capsys.readouterr()
    assert said in printed.err
    assert ("best: C" in printed.out) is ("--html" in more)


@pytest.mark.parametrize("arguments", [["--folds", "1"], ["--samples", "ten"]])
def test_a_wrong_argument_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One fold leaves nothing to learn from, and a word is no number."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "is not a whole number from" in capsys.readouterr().err
