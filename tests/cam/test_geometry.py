"""Resizing heat: as OpenCV and PyTorch do it."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camhelpers.cam.geometry import upsample


@pytest.mark.parametrize("size", [(13, 17), (40, 25), (7, 7), (1, 9), (3, 200)])
def test_in_two_axes_it_is_opencvs_resize(size):
    heat = np.random.default_rng(0).random((2, 7, 7), dtype=np.float32)
    expected = np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in heat])
    assert np.abs(upsample(torch.from_numpy(heat), size).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(12, 20, 16), (7, 5, 9), (2, 3, 8), (3, 5, 4)])
def test_in_three_axes_it_is_the_trilinear_interpolation(size, dtype):
    heat = torch.rand(2, 3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = F.interpolate(heat[:, None], size, mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(upsample(heat, size), expected, rtol=1e-5, atol=1e-6)


def test_in_one_axis_it_is_numpys_interpolation_between_the_centres_of_cells():
    found = upsample(torch.tensor([[0.0, 1, 4]]), [9])[0]
    np.testing.assert_allclose(found, np.interp((np.arange(9) + 0.5) / 3 - 0.5, [0, 1, 2], [0, 1, 4]), atol=1e-6)
