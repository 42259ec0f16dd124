# SPDX-License-Identifier: MIT
"""`python -m bitwright`, and `torchrun -m bitwright`."""

from bitwright.cli import main

if __name__ == "__main__":
    main()
