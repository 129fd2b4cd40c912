"""The program around an ssh client: it passes on what it reads, and then keeps the client's input open for as long as it lives.

So the other side sees the end of its input when, and only when, the client is gone, however it ended. It runs by itself, without
dagrid around it.
"""

import os
import subprocess
import sys


def main(argv: list[str]) -> int:
    """Run a client and return its exit code."""
    reading, writing = os.pipe()
    try:
        client = subprocess.Popen(argv, stdin=reading)
    except OSError as error:
        print(f"there is no program {argv[0]!r} ({error.strerror}); install the OpenSSH client", file=sys.stderr)  # noqa: T201
        return 127
    os.close(reading)
    try:
        while data := os.read(0, 1 << 16):
            view = memoryview(data)
            while view:
                view = view[os.write(writing, view) :]
    except BrokenPipeError:
        pass  # it has gone already, and says why itself
    code = client.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
