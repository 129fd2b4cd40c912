"""Values as bytes: for what is kept on disk. Who keeps them, and where, is not known here."""

from __future__ import annotations

import pickle
from typing import Any

PROTOCOL = 5
_MAIN = b"__main__"


def pack(value: Any) -> bytes:
    """Return a value pickled, by cloudpickle where the plain way fails or would refer to the `__main__` of this process.

    Raises:
        Exception: what the value's own pickling raised; nothing else knows how to keep it.
    """
    try:
        data = pickle.dumps(value, PROTOCOL)
        if _MAIN not in data:
            return data
    except Exception:  # noqa: BLE001  # whatever it is, cloudpickle may know better, and raises if it does not
        pass
    from cloudpickle import dumps as by_value

    return bytes(by_value(value, PROTOCOL))


unpack = pickle.loads
