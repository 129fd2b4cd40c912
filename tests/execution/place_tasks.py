"""Tasks that can be imported where worker processes run."""

from __future__ import annotations

import os
import threading


def whole():
    return {"words": ["a", "b"]}


def process_and_thread():
    return os.getpid(), threading.get_ident()


def count(words):
    return len(words), os.getpid()


class Unreadable:
    """A value that leaves a process and cannot be rebuilt in another one."""

    def __reduce__(self):
        return refuse, (os.getpid(),)


def refuse(pid):
    raise ValueError("cannot be rebuilt")


def unreadable():
    return Unreadable()
