"""What one node of the search does: list candidates, learn and score one fold, put the scores together.

It knows scikit-learn and the digits; it knows nothing of graphs or of dagrid. What it is given and returns is small: each worker
loads the digits itself, once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

FINER = (10 ** (-1 / 3), 1.0, 10 ** (1 / 3))


@dataclass(frozen=True, slots=True)
class Task:
    """What is searched: how many of the digits are used, and into how many folds they are cut.

    Attributes:
        samples: the first so many pictures; None takes all 1,797.
        folds: each of them is tested once, by what was learned from the others.
    """

    samples: int | None = None
    folds: int = 5

    def splitter(self) -> StratifiedKFold:
        """Return what cuts the digits, alike for everybody."""
        return StratifiedKFold(self.folds)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Settings of the classifier: `C`, how much a wrong answer costs, and `gamma`, how near two digits are that are alike."""

    C: float
    gamma: float


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate, and its accuracy (0 to 1) on each fold."""

    candidate: Candidate
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))


@functools.lru_cache(maxsize=2)
def digits(samples: int | None = None) -> tuple[Any, Any]:
    """Return the pictures, 64 brightnesses each, and the digits that they show."""
    pictures, shown = load_digits(return_X_y=True)
    return pictures[:samples], shown[:samples]


def grid(costs: Sequence[float], gammas: Sequence[float]) -> list[Candidate]:
    """Return every combination."""
    return [Candidate(*pair) for pair in itertools.product(costs, gammas)]


def folds_of(candidate: Candidate, task: Task) -> list[tuple[Candidate, int]]:
    """Return the trials of a candidate, one for each fold."""
    return [(candidate, fold) for fold in range(task.folds)]


def score(trial: tuple[Candidate, int], task: Task) -> Scored:
    """Learn all folds but one, and return the accuracy on that one."""
    candidate, fold = trial
    pictures, shown = digits(task.samples)
    train, test = next(itertools.islice(task.splitter().split(pictures, shown), fold, None))
    model = SVC(C=candidate.C, gamma=candidate.gamma).fit(pictures[train], shown[train])
    return Scored(candidate, (float(model.score(pictures[test], shown[test])),))


def join(trials: Sequence[Scored]) -> Scored:
    """Return the scores of one candidate's folds as one."""
    return Scored(trials[0].candidate, tuple(score for trial in trials for score in trial.scores))


def best_of(found: Sequence[Scored]) -> Scored:
    """Return the one with the best mean; of equals the first, as GridSearchCV does."""
    return max(found, key=lambda each: each.mean)


def finer(found: Sequence[Scored]) -> list[Candidate]:
    """Return a finer grid around the best candidate."""
    best = best_of(found).candidate
    return grid([best.C * factor for factor in FINER], [best.gamma * factor for factor in FINER])


def best_of_all(rounds: Sequence[Sequence[Scored]]) -> Scored:
    """Return the best of all rounds."""
    return best_of([each for found in rounds for each in found])
