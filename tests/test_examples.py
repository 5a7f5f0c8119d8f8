"""The examples, run as a user runs them."""

import argparse
import importlib
import os
import subprocess
import sys

import torch

from camhelpers.files import ROOT
from camhelpers.io.images import read_image

CIFAR = """
from torch import nn

class Block(nn.Module):
    def __init__(self, wide, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(wide, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.short = nn.Conv2d(wide, out, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return (self.short(x) + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()

def resnet8(num_classes=100):
    blocks = Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *blocks, pool, nn.Linear(64, num_classes))
"""


def test_a_cifar_resnet_as_dataparallel_saved_it(tmp_path, monkeypatch):
    (tmp_path / "mycode.py").write_text(CIFAR)
    monkeypatch.syspath_prepend(tmp_path)
    state = importlib.import_module("mycode").resnet8(num_classes=10).state_dict()
    held = {f"module.{name}": tensor for name, tensor in state.items() if "num_batches" not in name}
    torch.save({"state_dict": held, "epoch": 200, "args": argparse.Namespace(lr=0.1)}, tmp_path / "net.th")
    picture, out = ROOT / "docs/strip.jpg", tmp_path / "out.png"
    call = [sys.executable, ROOT / "examples/cifar_checkpoint.py", tmp_path / "net.th", "mycode:resnet8", picture, out]
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    told = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, timeout=300)
    assert told.returncode == 0, told.stderr
    assert read_image(out).shape == read_image(picture).shape and told.stdout.split()[0] in (ROOT / call[1]).read_text()
