"""Python functions: `python: package.module:function`, in a warm process; values flow between such steps as they are."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

from dagrid.commands import Exit, Launch, Request
from dagrid.workflow.model import Written
from dagrid.workflow.warm import Held, Returned, call
from dagrid.workflow.work import Work

_WHOLE = re.compile(r"\$\{([A-Za-z_]\w*)(?:\.(output|value))?\}|\$([A-Za-z_]\w*)", re.ASCII)


class Python:
    """A step with `python`.

    An argument that is `${NAME}` and nothing else gets the value itself that the step with that output returned, and so does
    `${id.output}`; within other text it is the text of the value. A parameter named after a step that comes directly before gets
    its value, if `args` do not say otherwise.
    """

    def perform(self, work: Work) -> Generator[Launch | Request, Exit | bytes, Returned]:
        """Call the function."""
        step = work.step
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        if isinstance(step.args, dict):
            for name, one in step.args.items():
                kwargs[name] = yield from _argument(work, one)
        else:
            for one in step.args:
                args.append((yield from _argument(work, one)))
        values = {name: end.value for name, end in work.values.items() if end.value is not None}
        returned: Returned = yield from call(work, step.python, args, kwargs, values)
        return returned


def _argument(work: Work, value: Any) -> Generator[Any, Any, Any]:
    """Return an argument with all that its texts say, and the values of other steps in it."""
    if isinstance(value, Written):
        return value.value
    if isinstance(value, str):
        whole = _WHOLE.fullmatch(value)
        held = _value(work, whole[1] or whole[3], whole[2] or "") if whole is not None else None
        return held if held is not None else (yield from work.text(value))
    if isinstance(value, dict):
        made = {}
        for name, one in value.items():
            made[name] = yield from _argument(work, one)
        return made
    if isinstance(value, (list, tuple)):
        items = []
        for one in value:
            items.append((yield from _argument(work, one)))
        return items
    return value


def _value(work: Work, name: str, field: str) -> Held | None:
    """Return the value that a name means: that of the step with this id, or of the one that has this output."""
    if field:
        end = work.names.steps.get(name)
        return Held(end.value) if end is not None and end.value is not None else None
    for layer in work.names.layers[:3]:
        if name in layer:
            return None
    for end in reversed(work.ends.values()):
        if name in end.outputs:
            return Held(end.value) if end.value is not None and name not in end.apart else None
    return None
