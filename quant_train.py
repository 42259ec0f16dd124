#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""The model zoo's documented command line: `python quant_train.py --help` has an example."""

from bitwright.cli.quant_train import main

if __name__ == "__main__":
    main()
