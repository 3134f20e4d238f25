"""The command: python -m jax_itm COMMAND (see --help)."""

import sys

from jax_itm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
