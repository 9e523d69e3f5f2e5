"""Peak memory of `generate` and `fit`, in copies of x, each in a process of its own.

The peak is that of the resident set, as the kernel counts it (VmHWM; `ru_maxrss` would inherit the
parent's), above what was resident before the call; x is 0.4 GB, was filled in place, and libraries
are warm. What a batch needs is counted too: 32 images are 0.004 copies of x.

    python -m benchmarks.memory art_ext generate
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUBJECTS = ("art_ext", "ART")
CALLS = ("generate", "fit")
SHAPE = (3, 64, 64)
N = 8192
BATCH = 32


def extra_copies(subject: str, call: str) -> float:
    """Runs the measurement in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", subject, call]
    root = Path(__file__).parents[1]
    made = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if made.returncode:
        raise RuntimeError(f"the memory measurement of {subject} {call} failed:\n{made.stderr[-2000:]}")
    return float(made.stdout.split()[-1])


def measure(subject: str, call: str) -> float:
    """Peak above the present resident set while the call runs, in copies of x."""
    import numpy as np
    import torch
    from torch import nn

    from art_ext_baselines import PGDATAttack, PGDATTrainer

    torch.set_num_threads(1)
    from art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch import (
        ProjectedGradientDescentPyTorch,
    )
    from art.defences.trainer import AdversarialTrainerMadryPGD
    from art.estimators.classification import PyTorchClassifier

    model = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    classifier = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=SHAPE,
        nb_classes=10,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    rng = np.random.default_rng(0)
    x = np.empty((N, *SHAPE), dtype=np.float32)
    for start in range(0, N, BATCH):
        rng.random(out=x[start : start + BATCH], dtype=np.float32)
    y = np.arange(N) % 10
    if call == "generate":
        attack = (
            PGDATAttack(classifier, eps=0.03, steps=1, batch_size=BATCH)
            if subject == "art_ext"
            else ProjectedGradientDescentPyTorch(classifier, eps=0.03, max_iter=1, batch_size=BATCH, verbose=False)
        )

        def work(n: int) -> object:
            return attack.generate(x[:n], y[:n])
    else:
        trainer = (
            PGDATTrainer(classifier, eps=0.03, steps=1, track=False)
            if subject == "art_ext"
            else AdversarialTrainerMadryPGD(classifier, eps=0.03, eps_step=0.03, max_iter=1)
        )

        def work(n: int) -> object:
            return trainer.fit(x[:n], y[:n], batch_size=BATCH, nb_epochs=1)

    work(4 * BATCH)
    before = status("VmRSS")
    made = work(N)  # the returned array counts
    peak = status("VmHWM")
    del made
    return (peak - before) / x.nbytes


def status(name: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    print(f"{measure(*sys.argv[1:3]):.3f}")
