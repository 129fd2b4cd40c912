"""Settings of the whole suite."""

from __future__ import annotations

from hypothesis import settings

# The machines that run this are shared and slow at times: a deadline for one example would fail on a busy day.
# The order of examples is fixed, so that a red build is red again for whoever looks into it.
settings.register_profile("dagrid", deadline=None, derandomize=True)
settings.load_profile("dagrid")
