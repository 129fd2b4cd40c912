"""What every place for values must do, as tests to inherit: make a subclass and run pytest on it.

    class TestMine(ArtifactsConformance):
        def open_artifacts(self, place):
            return MyArtifacts(place / "values")

`place` is a folder of the test's own: the same values are meant whenever it is given again. The suite knows the socket and no
place.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from dagrid.errors import StoreError
from dagrid.ports import Artifacts
from dagrid.testing.conformance import raised
from dagrid.testing.crowd import PATIENCE, at_once


class ArtifactsConformance:
    """The suite for places where values are kept. Override `open_artifacts`."""

    __test__: ClassVar[bool] = False
    patience: ClassVar[float] = PATIENCE

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__test__ = cls.open_artifacts is not ArtifactsConformance.open_artifacts

    def open_artifacts(self, place: Path) -> Artifacts:
        """Return the artifacts of a folder that the test owns; the same ones each time."""
        raise NotImplementedError("override open_artifacts(place) and return artifacts")

    def test_what_was_put_comes_back(self, tmp_path: Path) -> None:
        """Any bytes under any key, also when the place is opened again."""
        values = {
            "a": b"",
            "A1": b"\x00\xff",
            "a.b-c_d": b"one",
            "run/1/node.0/value": b"two",
            ".hidden/...": b"three",
            "k" * 200: b"long",
            "/".join(["deep"] * 20): b"deep",
        }
        artifacts = self.open_artifacts(tmp_path)
        for key, value in values.items():
            artifacts.put(key, value)
        again = self.open_artifacts(tmp_path)
        assert {key: again.get(key) for key in values} == values

    def test_a_large_value(self, tmp_path: Path) -> None:
        """50 MB."""
        data = random.Random(1).randbytes(50 * 2**20)
        artifacts = self.open_artifacts(tmp_path)
        artifacts.put("large", data)
        same = artifacts.get("large") == data
        assert same

    def test_what_was_never_put(self, tmp_path: Path) -> None:
        """None, before anything was put, beside something, and where only a folder or a value stands in the way."""
        artifacts = self.open_artifacts(tmp_path)
        assert artifacts.get("a") is None
        artifacts.put("a/b", b"value")
        assert [artifacts.get(key) for key in ("a", "b", "a/c", "a/b/c", "A/B")] == [None] * 5

    def test_a_key_may_be_the_beginning_of_another(self, tmp_path: Path) -> None:
        """In whichever order they come."""
        artifacts = self.open_artifacts(tmp_path)
        for keys in (["a", "a/b", "a/b/c"], ["x/y/z", "x/y", "x"]):
            for key in keys:
                artifacts.put(key, key.encode())
            assert [artifacts.get(key) for key in keys] == [key.encode() for key in keys]
            artifacts.delete(keys[1])
            assert [artifacts.get(key) for key in keys] == [keys[0].encode(), None, keys[2].encode()]

    def test_put_replaces(self, tmp_path: Path) -> None:
        """A shorter value after a longer one, whole."""
        artifacts = self.open_artifacts(tmp_path)
        for value in (b"a long value", b"short", b""):
            artifacts.put("a/b", value)
            assert artifacts.get("a/b") == value

    def test_delete(self, tmp_path: Path) -> None:
        """Only that key; twice and never put is no error; and it can be put again."""
        artifacts = self.open_artifacts(tmp_path)
        artifacts.delete("never/put")
        artifacts.put("a/b", b"one")
        artifacts.put("a/c", b"two")
        artifacts.delete("a")
        artifacts.delete("a/b/c")
        artifacts.delete("a/b")
        artifacts.delete("a/b")
        assert (artifacts.get("a/b"), artifacts.get("a/c")) == (None, b"two")
        artifacts.put("a/b", b"again")
        assert artifacts.get("a/b") == b"again"

    def test_clear(self, tmp_path: Path) -> None:
        """All that is under a key, however deep, and neither the key itself nor what only begins like it."""
        artifacts = self.open_artifacts(tmp_path)
        gone = ["a/b", "a/b/c", "a/b/c/d", "a/-", "a/z.z"]
        stays = ["a", "a-b", "a.b/c", "a0", "ab/c", "b/a/c", "A/b"]
        artifacts.clear("a")
        for key in (*gone, *stays):
            artifacts.put(key, key.encode())
        artifacts.clear("a")
        artifacts.clear("a")
        assert {key: artifacts.get(key) for key in gone} == dict.fromkeys(gone)
        assert {key: artifacts.get(key) for key in stays} == {key: key.encode() for key in stays}
        artifacts.put("a/b", b"again")
        assert artifacts.get("a/b") == b"again"

    def test_keys_that_are_none(self, tmp_path: Path) -> None:
        """Whatever could lead elsewhere is refused at every door, with the key in the message."""
        artifacts = self.open_artifacts(tmp_path)
        wrong = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "../a",
            "a/.",
            "a\\b",
            "C:a",
            "a b",
            "~a",
            "@a",
            "a\n",
        ]
        wrong += ["é", "a*", "a?b", "a\x00b", "file://a", "a%2fb", "a::b", "[a]", "\u0661"]
        doors: tuple[Callable[[str], Any], ...] = (
            lambda key: artifacts.put(key, b"wrong"),
            artifacts.get,
            artifacts.delete,
            artifacts.clear,
        )
        for key in wrong:
            for door in doors:
                error = raised(door, key)
                assert isinstance(error, StoreError), f"{key!r}: {error!r}"
                assert repr(key) in str(error)

    def test_a_reader_sees_whole_values(self, tmp_path: Path) -> None:
        """While threads replace a value, every look at it is at one of those that were put."""
        artifacts = self.open_artifacts(tmp_path)
        values = [bytes([number]) * 200_000 for number in range(3)]
        artifacts.put("a/b", values[0])
        looks: list[bool] = []

        def write(value: bytes) -> None:
            for _ in range(20):
                artifacts.put("a/b", value)

        def look() -> None:
            looks.extend(artifacts.get("a/b") in values for _ in range(100))

        at_once([lambda: write(values[1]), lambda: write(values[2]), look], self.patience)
        assert len(looks) == 100
        assert all(looks)
