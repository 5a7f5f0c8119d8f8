import numpy as np
import pytest

from camhelpers.batch.camvis import Settings, explain_volumes


def test_a_volume_is_made_and_kept(tmp_path, tiny_net):
    net, cube = tiny_net(3), np.random.default_rng(0).random((10, 12, 14), np.float32)
    for status in ("made", "kept"):
        found = explain_volumes(net, cube, ["gradcam", "vargrad"], tmp_path, samples=2, resume=True)
        assert [outcome.status for outcome in found.outcomes] == [status]
    assert (found.folder / "summary.csv").is_file()


def test_settings_are_checked():
    with pytest.raises(ValueError, match="alpha is 2"):
        Settings(alpha=2)
