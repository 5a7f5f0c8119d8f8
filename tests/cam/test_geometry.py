"""Resizing heat: as OpenCV and PyTorch do it."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camhelpers.cam.geometry import upsample


@pytest.mark.parametrize("size", [(7, 5), (1, 9), (3, 200), (12, 20, 16), (7, 5, 9), (2, 3, 8)])
def test_it_is_opencvs_resize_in_two_axes_and_the_trilinear_interpolation_in_three(size):
    heat = torch.rand(2, *(3, 5, 4)[: len(size)], generator=torch.Generator().manual_seed(0))
    if len(size) == 2:
        expected = torch.tensor(
            np.stack([cv2.resize(h, size[::-1], interpolation=cv2.INTER_LINEAR) for h in heat.numpy()])
        )
    else:
        expected = F.interpolate(heat[:, None], size, mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(upsample(heat, size), expected, rtol=0, atol=1e-5)
    assert upsample(heat.double(), size).dtype == torch.float64
