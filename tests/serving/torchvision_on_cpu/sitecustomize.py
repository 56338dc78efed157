"""Lets a torchvision that was built for CUDA load on a CPU torch: it looks for two operators, which nobody calls here.

Python runs this file at its start when the folder is on PYTHONPATH. For the test environment alone.
"""

import torch

for operator in ("nms", "qnms"):
    torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
