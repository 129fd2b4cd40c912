"""Tasks that can be imported where worker processes run."""

from __future__ import annotations

from dagrid import current, task


def square(value):
    return value * value


def negate(value):
    return -value


def total(values):
    return sum(values)


def with_base(values, base=None):
    return sum(values) + base


def words(line):
    return line.split()


def length(word):
    return len(word)


def halve(value):
    return value // 2


def load(url):
    return f"<{url}>"


def title(load):
    return load.strip("<>").title()


def page(load, title):
    return f"{load} {title}"


@task(name="fancy", retries=3, unpack_to=1, tags=["marked"])
def in_one_of_two(value):
    """Fail at the first try."""
    if current().number == 1:
        raise ConnectionError("try again")
    return [value]


def total_of_lists(values):
    return sum(sum(value) for value in values)
