"""How long somebody who performs something may be silent, where nobody says it: one number for all who speak of it."""

from __future__ import annotations

LEASE = 30.0
"""Seconds after which a worker of a fleet that has not been heard has lost what it performs."""
