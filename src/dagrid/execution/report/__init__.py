"""A run as one HTML page. `page.py` puts it together, `graph.py` and `timeline.py` draw, `story.py` reads the run for them.

Everything that a reader must see is in the page as it is written; the script adds the slider, the keys and the details of a node.
"""
