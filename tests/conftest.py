"""One thread, here and in the processes that tests start: the tensors are tiny, and threads only get in the way."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
