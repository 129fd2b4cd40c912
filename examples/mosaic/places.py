"""Where every file of a run lies, so that the graph and the plain loop name the same files; it knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The files beneath one output folder.

    Attributes:
        root: The output folder, absolute: the tasks may run in another process with another current folder.
    """

    root: Path

    @classmethod
    def prepare(cls, output: str | Path) -> Places:
        """Make the folders beneath `output`, remove what an earlier run left in them, and return the places."""
        places = cls(Path(output).resolve())
        for folder in ("tiles", "projected", "differences", "corrected"):
            place = places.root / "work" / folder
            place.mkdir(parents=True, exist_ok=True)
            for old in place.glob("*.fits"):
                old.unlink()
        for product in (places.before, places.after, places.mosaic, places.comparison, places.trace, places.page):
            Path(product).unlink(missing_ok=True)
        return places

    def work(self, *parts: str) -> str:
        """Return the path of an intermediate file or folder."""
        return str(self.root.joinpath("work", *parts))

    def image(self, folder: str, name: str) -> str:
        """Return the path of a tile's image in one of the folders."""
        return self.work(folder, f"{name}.fits")

    @property
    def template(self) -> str:
        """The header of the mosaic's grid."""
        return self.work("mosaic.hdr")

    @property
    def before(self) -> str:
        """The mosaic of the uncorrected tiles."""
        return self.work("before.fits")

    @property
    def after(self) -> str:
        """The mosaic of the corrected tiles."""
        return self.work("after.fits")

    @property
    def mosaic(self) -> str:
        """The corrected mosaic as a picture."""
        return str(self.root / "mosaic.png")

    @property
    def comparison(self) -> str:
        """The picture of before, after and the original."""
        return str(self.root / "before-after.png")

    @property
    def trace(self) -> str:
        """The record of the run, for a trace viewer."""
        return str(self.root / "trace.json")

    @property
    def page(self) -> str:
        """The run as a page for a browser."""
        return str(self.root / "run.html")
