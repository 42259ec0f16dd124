# SPDX-License-Identifier: MIT
"""The main job from beginning to end on data that is there: what the model zoo does for ImageNet."""

from bitwright.demo.job import DemoResult, run_demo
from bitwright.demo.settings import DemoSettings, preset

__all__ = ["DemoResult", "DemoSettings", "preset", "run_demo"]
