"""How the benchmark of volumes compares a peer's map with ours."""

import numpy as np
import pytest

from benchmarks import volumes


@pytest.fixture(scope="module")
def heat():
    z, y, x = np.ogrid[:24, :32, :32]
    return np.exp(-((z - 5) ** 2 + (y - 9) ** 2 / 4 + (x - 22) ** 2 / 9) / 20).astype(np.float32)


@pytest.mark.parametrize(
    ("peer", "match", "correlation"),
    [
        (lambda heat: 255 * heat, "as it is", 1),
        (lambda heat: 1 - heat, "as it is, hot and cold exchanged", -1),
        (lambda heat: heat.transpose(0, 2, 1), "with its axes z x y", 1),
        (lambda heat: heat[::-1], "with its axes -z y x", 1),
        (lambda heat: heat.transpose(1, 2, 0)[:, ::-1], "with its axes x z -y", 1),
    ],
)
def test_how_a_peers_map_lies_beside_ours(heat, peer, match, correlation):
    found = volumes.agreement(peer(heat), heat)
    assert found["best_match"] == match and found["best_correlation"] == pytest.approx(correlation)
    assert (found["correlation"] == found["best_correlation"]) == match.startswith("as it is")


def test_our_file_is_read_as_viewers_read_it(tmp_path, heat):
    volume = volumes.Volume(heat, (0.125, 0.0625, 0.25), "cube", (0, 1), None, None, {"spacing_known": True})
    volumes.stacks.write_nifti(tmp_path / "heat.nii.gz", heat, volume)
    read, about = volumes.read_back(tmp_path / "heat.nii.gz")
    assert (read == heat).all()
    assert about == "NIfTI, float32, 32 x 32 x 24 (i, j, k), voxels of 0.25 x 0.0625 x 0.125, unit mm"
