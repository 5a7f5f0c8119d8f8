"""The examples, run as a user runs them."""

import argparse
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from camhelpers.cam.models import load_model
from camhelpers.datasets import photographs
from camhelpers.files import ROOT
from camhelpers.io.images import read_image, save_image

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


OWN = '''
import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d

from camhelpers.cam.models import import_torchvision
from camhelpers.cam.nets import SmallResNet

import_torchvision()
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.deep = (nn.Conv2d(a, b, 3, 1, 1) for a, b in ((3, 8), (8, 16), (16, 32)))
        self.up1, self.up2, self.out = nn.Conv2d(48, 16, 3, 1, 1), nn.Conv2d(24, 8, 3, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        one = self.one(x).relu()
        two = self.two(max_pool2d(one, 2)).relu()
        deep = self.deep(max_pool2d(two, 2)).relu()
        two = self.up1(torch.cat([interpolate(deep, scale_factor=2), two], 1)).relu()
        return self.out(self.up2(torch.cat([interpolate(two, scale_factor=2), one], 1)).relu())


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        self.head = RetinaNetHead(256, 3, 1)

    def forward(self, x):
        found = self.head(list(self.backbone(x).values()))
        pairs = zip(found["bbox_regression"], found["cls_logits"].sigmoid().amax(2), strict=True)
        return [{"boxes": boxes, "scores": scores} for boxes, scores in pairs]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.beside, self.fc = SmallResNet(16, widths=(8, 8, 16, 16)), nn.Linear(2, 8), nn.Linear(24, 2)

    def forward(self, x, numbers):
        return self.fc(torch.cat([self.trunk(x), self.beside(numbers)], 1))
'''
CASES = {
    "own_efficientnet": (None, [], r"(tabby|tiger cat|Egyptian cat|class 28\d) \d+ % by bn2"),
    "unet": ("UNet", [], "by deep"),
    "detector": ("Detector", [], r"by backbone\.body\.layer4"),
    "two_inputs": ("Network", ["0.3,1.2"], r"(healthy|ill) \d+ % by trunk\.layer4"),
}



@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_from_weights_and_a_picture_to_an_overlay(name, tmp_path, monkeypatch):
    network, more, said = CASES[name]
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    net = getattr(importlib.import_module("own"), network)() if network else load_model("efficientnet_lite0")
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    picture = np.round(read_image(photographs.path("cat")) * 255).astype(np.uint8)
    save_image(tmp_path / "cat.png", picture)
    asked = [f"own:{network}"] if network else []
    call = [sys.executable, ROOT / "examples" / f"{name}.py", "weights.pt", *asked, "cat.png", *more, "out.png"]
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, tmp_path)))}
    told = subprocess.run(call, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr
    assert re.search(said, told.stdout), told.stdout
    assert ("a U-shape, or branches" in told.stderr) == (name in ("unet", "detector"))
    drawn = read_image(tmp_path / "out.png")
    assert drawn.shape == picture.shape and np.ptp(drawn - 0.6 * picture / 255) > 0.2


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_an_example_has_ten_lines_at_most_beside_its_imports(path):
    lines = path.read_text(encoding="utf-8").split("import camhelpers as ch\n")[1].strip().splitlines()
    assert len(lines) <= 10
