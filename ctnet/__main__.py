"""The command line as a module: ``python -m ctnet``, which torchrun can start too."""

import sys

from ctnet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
