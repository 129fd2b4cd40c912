"""A mosaic of the Hubble deep field, made by the Montage tools as one graph that grows while it runs.

Sixteen overlapping, tilted tiles with wrong brightnesses are cut from a picture that ships inside scikit-image.
Montage reprojects them onto one grid, finds out which of them overlap, fits the difference of each pair, solves for
the plane to subtract from each tile, and adds the corrected tiles. Because the picture is known, the result can be
compared with it.

    python -m examples.mosaic

The rooms: `tiles` (the sky and the tiles), `montage` (the tools as tasks, and why processes), `report` (residuals and
pictures), `places` (the files), `workflow` (the graph and its rules), `sequential` (the same as a plain loop).
"""
