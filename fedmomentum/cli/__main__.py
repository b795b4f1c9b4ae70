"""``python -m fedmomentum.cli`` is the ``fedmomentum`` command."""

from __future__ import annotations

import sys

from fedmomentum.cli import main

if __name__ == "__main__":
    sys.exit(main())
