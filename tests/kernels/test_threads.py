"""Kernels do not change with how many threads torch computes."""

import os
import subprocess
import sys

import pytest

# A process per call, as only the first parallel kernel of a process could change it. torch must have computed before:
# until then it would set its own number again.
BEGIN = """
import numpy as np
import torch
torch.set_num_threads(1)
torch.ones(1 << 20).exp()
"""
END = "print(torch.get_num_threads())"

CALLS = {
    "class means": """
from fastlt.kernels.class_mean import class_mean
class_mean(np.ones((4, 3), np.float32), np.array([0, 0, 1, 1]), 2)
""",
    "sample order": """
from fastlt.kernels.sample_order import sample_order
sample_order(np.arange(5), np.array([0, 3, 5]), np.array([2, 2]), np.array([0, 0]), 0, 0)
""",
    "independent draws": """
from fastlt.kernels.sample_order import sample_order_iid
sample_order_iid(np.arange(5), np.array([0, 3, 5]), np.array([0.5, 0.5]), 4, 0, 0)
""",
    "drawn classes": """
from fastlt.kernels.sample_order import drawn_classes
drawn_classes(np.array([0.5, 0.5]), 4, 0, 0)
""",
    "resized crops": """
from fastlt.kernels.draw_plan import draw_resized_crops
draw_resized_crops(*np.full((2, 2), 9, np.int32), np.arange(2), (0.1, 1.0), (0.75, 1.33), 0, 0)
""",
    "winning intervals": """
from fastlt.kernels.winning_interval import winning_interval
winning_interval(torch.ones(2, 4), torch.ones(3, 4), torch.tensor([0, 1]))
""",
    "confidence of a choice": """
from fastlt.kernels.choice_confidence import choice_confidence
choice_confidence(np.array([0.0, 0.5]), np.array([1.0, 2.0]), np.array([0, 1]), np.array([0, 1], np.int8))
""",
    "a command's threads": """
from fastlt.core.device import set_threads
set_threads(1)
""",
}


@pytest.mark.parametrize("call", list(CALLS))
def test_torch_keeps_its_number_of_threads(call: str) -> None:
    script = BEGIN + CALLS[call] + END
    variables = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    variables.pop("OMP_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False)
    assert done.stdout == "1\n", done.stdout + done.stderr
