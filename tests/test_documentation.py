"""The documents are programs: what a reader copies from them runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^(?P<indent>[ ]*)(?P<ticks>`{3,}|~{3,})[ ]*(?P<info>[^`]*)$")

# Runs blocks as one `__main__`, so that functions have a home to be pickled from. The blocks come padded with empty
# lines: a line number in a traceback is the line of the document.
RUNNER = """
import json, sys
name, blocks = json.load(sys.stdin)
for source in blocks:
    exec(compile(source, name, "exec"), globals())
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language and other words, the line where its text begins (counted from 1), the text."""

    language: str
    words: frozenset[str]
    line: int
    text: str

    @property
    def padded(self) -> str:
        return "\n" * (self.line - 1) + self.text


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text; an unclosed one is an error."""
    found: list[Block] = []
    opening: re.Match[str] | None = None
    start = 0
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if opening is None:
            opening, start = FENCE.match(line), number
            continue
        if line.strip().startswith(opening["ticks"]) and not line.strip().strip(opening["ticks"][0]):
            words = opening["info"].replace(",", " ").split()
            body = textwrap.dedent("".join(f"{row}\n" for row in lines[start : number - 1]))
            found.append(Block(words[0] if words else "", frozenset(words[1:]), start + 1, body))
            opening = None
    assert opening is None, f"the block that opens in line {start} is never closed"
    return found


def read(document: Path) -> list[Block]:
    return blocks_of(document.read_text(encoding="utf-8"))


def run_blocks(name: str, blocks: list[Block], where: Path) -> subprocess.CompletedProcess[str]:
    """Run the blocks, in order and in one namespace, in a fresh interpreter whose working directory is `where`."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER],
        check=False,
        input=json.dumps([name, [block.padded for block in blocks]]),
        cwd=where,
        capture_output=True,
        text=True,
        timeout=50,
    )


def named(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.example
@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_python_in_a_document_runs(document: Path, tmp_path: Path) -> None:
    """A reader's first contact is a copied block; one that fails costs us the reader."""
    blocks = [block for block in read(document) if block.language in {"python", "py"}]
    for block in blocks:
        compile(block.padded, str(document), "exec")
    done = run_blocks(str(document), [block for block in blocks if "no-run" not in block.words], tmp_path)
    assert done.returncode == 0, f"{named(document)} does not run:\n{done.stderr}{done.stdout[-2000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_make_targets_in_a_document_exist(document: Path) -> None:
    """`make X` in a document is a promise that the Makefile keeps."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    shells = [block for block in read(document) if block.language in {"console", "sh", "bash", "shell"}]
    for block in shells:
        for offset, line in enumerate(block.text.splitlines()):
            command = re.match(r"(?:\$ )?(?:\w+=\S+ )*make((?: +[\w=./-]+)*)", line)
            wanted = [word for word in command[1].split() if "=" not in word] if command else []
            missing = set(wanted) - targets
            assert not missing, f"{named(document)}:{block.line + offset}: no make target {sorted(missing)}"


def test_a_failing_block_is_reported_with_its_line_in_the_document(tmp_path: Path) -> None:
    """Without the place a red document is a search, and a runner that swallowed errors would keep every one green."""
    first = "# Title\n\n```python\nvalue = 1\n```\n\n"
    second = "- a list\n\n  ```python\n  assert value == 1\n  raise KeyError(value)\n  ```\n"
    done = run_blocks("guide.md", blocks_of(first + second), tmp_path)
    assert done.returncode != 0
    assert 'File "guide.md", line 11' in done.stderr
    assert "KeyError: 1" in done.stderr


@pytest.mark.parametrize("extra", ["cli", "mosaic", "search", "warehouse"])
def test_what_the_examples_need_is_in_their_environment(extra: str) -> None:
    """`make run`, `make search` and `make warehouse` are what a newcomer types first, with nothing else installed."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/run.lock").read_text(), re.MULTILINE)
    missing = {re.split(r"[^\w.-]", one)[0].lower() for one in needed}.difference(map(str.lower, locked))
    assert not missing
