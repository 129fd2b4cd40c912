"""What the tests of caching share: a chain, and how its nodes got their values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dagrid import DAG, Node
from tests.execution import cached_tasks as tasks

CHAIN = [
    Node("load", tasks.load, cache=True),
    Node("double", tasks.double, ["load"], cache=True),
    Node("total", tasks.total, ["double"], cache=True),
]


def notes(graph: DAG | list[Node], cache: Any, given: Any = None, **settings: Any) -> dict[str, str]:
    """Run a graph, and return of each node how it got its value."""
    graph = graph if isinstance(graph, DAG) else DAG(graph)
    result = graph.run(given, cache=cache, **{"backend": "inline", **settings}).raise_for_status()
    return {name: node.note for name, node in result.node_results.items()}


def hits(graph: DAG | list[Node], cache: Any, given: Any = None, **settings: Any) -> dict[str, bool]:
    """Run a graph, and return of each node whether its value was found."""
    return {name: note.startswith("from the cache") for name, note in notes(graph, cache, given, **settings).items()}


def made(source: str, name: str = "fn", **given: Any) -> Any:
    """Return a function of a module that was written anew."""
    module: dict[str, Any] = {"__name__": "a_module", **given}
    exec(compile(source, "a_module.py", "exec"), module)
    return module[name]


def hit_again(first: Any, second: Any, cache: Any, said: bool | str = True) -> bool:
    """Return whether one function finds what another one has stored under the same name of a node."""
    assert not hits([Node("n", first, cache=said)], cache)["n"]
    return hits([Node("n", second, cache=said)], cache)["n"]


def stored(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("@*") if path.is_file())
