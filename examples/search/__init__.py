"""A search for the best settings of a classifier, as a map and reduce that decides at run time what to try next.

A support vector machine learns the handwritten digits that ship with scikit-learn. The first round tries a coarse grid of two
settings, every candidate on every cross-validation fold as a node of its own; the second round tries a finer grid around the
best of the first, which nobody knows before. The scores are those of scikit-learn's `GridSearchCV` for the same candidates, to
the bit.

    python -m examples.search

The rooms: `trials` (what one node does), `workflow` (the graph and its rules).
"""
