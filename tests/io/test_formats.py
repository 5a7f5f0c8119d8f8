"""Formats that other libraries write, at the place where those libraries put them."""

import builtins

import nibabel
import numpy as np
import pytest
import SimpleITK

from camhelpers.io.export import write_nifti
from camhelpers.io.volumes import read_volume

SCAN = np.random.default_rng(0).integers(0, 4096, (5, 6, 7)).astype(np.int16)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr", ".nii.gz"])
def test_what_simpleitk_wrote_comes_back_on_its_own_grid(tmp_path, suffix):
    image = SimpleITK.GetImageFromArray(SCAN)
    image.SetSpacing((0.5, 0.8, 2.5)), image.SetOrigin((-10, 20, 30))
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, -1, 0))  # x to the back, y downwards, z to the left
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    volume = read_volume(tmp_path / f"scan{suffix}", window=(0, 4095))
    assert (volume.name, volume.source["orientation"]) == ("scan", "LPS")
    write_nifti(tmp_path / "heat.nii", volume.data, volume)
    heat = SimpleITK.ReadImage(str(tmp_path / "heat.nii"))
    same = SimpleITK.Add(SimpleITK.Cast(image, SimpleITK.sitkFloat32), heat)  # complains unless they lie on each other
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(same), SCAN + SCAN / 4095, rtol=1e-5)


def test_freesurfers_format_and_nifti_are_one_volume(tmp_path):
    affine = nibabel.affines.from_matvec([[-0.5, 0, 0], [0, 0, 2.5], [0, -0.8, 0]], [9, -8, 7])
    nibabel.save(nibabel.MGHImage(SCAN.astype(np.float32), affine), tmp_path / "a.mgz")
    nibabel.save(nibabel.Nifti1Image(SCAN.astype(np.float32), affine), tmp_path / "a.nii")
    mgz, nifti = (read_volume(tmp_path / name) for name in ("a.mgz", "a.nii"))
    np.testing.assert_array_equal(mgz.data, nifti.data)
    np.testing.assert_allclose(mgz.affine, nifti.affine, atol=1e-5)
    assert mgz.spacing == pytest.approx((0.8, 2.5, 0.5)) and mgz.source["spacing_known"]


def test_a_library_that_is_missing_is_one_sentence_with_the_line_that_installs_it(tmp_path, monkeypatch):
    (tmp_path / "a.nrrd").write_text("NRRD0004")
    real = builtins.__import__

    def without(name, *given, **options):
        if name == "SimpleITK":
            raise ImportError(name)
        return real(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"a.nrrd needs a library that is not installed: pip install SimpleITK\.$"):
        read_volume(tmp_path / "a.nrrd")
