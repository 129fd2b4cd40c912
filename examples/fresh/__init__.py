"""A backend as a third party writes it: each attempt runs in a process of its own, which is forked for it and ends with it.

For tasks that leak, crash, or leave their library in a state that nobody wants. A cancelled or late one is really stopped, and
what it took is given back whole. Both ways to write a backend are here, over the same `Fork`.
"""
