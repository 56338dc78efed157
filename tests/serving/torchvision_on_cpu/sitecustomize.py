"""Lets a torchvision that was built for CUDA load on a CPU torch: it looks for two operators, which nobody calls here.

Python runs this file at its start when the folder is on PYTHONPATH. For the test environment alone.
"""

from torch import library

#: Kept, for the operators go when it goes.
OPERATORS = library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    OPERATORS.define(name + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
