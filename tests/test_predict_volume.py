"""`predict_volume`: arrays in, nnU-Net's labels out."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from nnunet_neuro.predict import predict_volume
from nnunet_neuro.predict.job import ModelChoice
from nnunet_neuro.predict.options import PredictOptions
from tests.predict_road import expected, image, model
from tests.tiny_models import nnunet_labels


def as_numpy(folder, voxels):
    return voxels


def as_zarr(folder, voxels):
    array = zarr.open_array(str(folder / "in.zarr"), mode="w", shape=voxels.shape, chunks=(8,) * voxels.ndim, dtype=voxels.dtype)
    array[:] = voxels
    return array


def as_dask(folder, voxels):
    return pytest.importorskip("dask.array").from_array(voxels, chunks=9)


def as_hdf5(folder, voxels):
    import h5py

    return h5py.File(folder / "in.h5", "w").create_dataset("brain", data=voxels)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", [as_numpy, as_zarr, as_dask, as_hdf5])
def test_any_array_gives_nnunets_labels(tmp_path, kind, channels):
    voxels = image(channels)
    labels = predict_volume(kind(tmp_path, voxels[0] if channels == 1 else voxels), model(channels=channels), progress=False)
    assert isinstance(labels, np.ndarray) and labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected(model(channels=channels), channels))


def test_the_output_may_be_an_array_on_disk(tmp_path, capsys):
    out = zarr.open_array(str(tmp_path / "out.zarr"), mode="w", shape=image()[0].shape, chunks=(10, 9, 8), dtype="uint8")
    assert predict_volume(image()[0], model(), out=out) is out
    np.testing.assert_array_equal(out[:], expected(model()))
    assert "100%" in capsys.readouterr().err


def test_models_may_be_chosen_in_several_ways():
    two = model(folds=(0, 1))
    first = predict_volume(image()[0], ModelChoice(two, (0,)), progress=False)
    np.testing.assert_array_equal(first, expected(two, 1, (0,)))
    both = predict_volume(image()[0], str(two), progress=False)
    np.testing.assert_array_equal(both, expected(two, 1, (0, 1)))
    mean = predict_volume(image()[0], [ModelChoice(two, (0,)), ModelChoice(two, (1,))], progress=False)
    assert not np.array_equal(mean, first)
    np.testing.assert_array_equal(predict_volume(image()[0], [two, two], progress=False), both)


def test_options_and_voxel_size_are_used():
    labels = predict_volume(image()[0], model(), options=PredictOptions(step=1.0), progress=False)
    np.testing.assert_array_equal(labels, nnunet_labels(model(), image(), step=1.0))
    resampled = predict_volume(image()[0], model(), spacing=(2, 1, 1), progress=False)
    assert resampled.shape == labels.shape and (resampled != nnunet_labels(model(), image(), (2, 1, 1))).mean() < 0.02


@pytest.mark.parametrize("source, settings, sentence", [
    (image()[0, 0], {}, r"the source has shape \(26, 22\); expected \(z, y, x\), or \(c, z, y, x\)"),
    (image(2), {}, "the input has 2 channels, but the model in"),
    (image()[0], {"out": np.zeros((1, 2, 3))}, r"the output has shape \(1, 2, 3\), but the source"),
    (image()[0].astype(complex), {}, "expected numbers"),
    (image()[0], {"memory": 1 << 20}, "of memory are too little"),
    (image()[0], {"spacing": (1, 1, 0)}, "expected three positive numbers"),
])
def test_what_does_not_fit_is_one_sentence(source, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        predict_volume(source, model(), progress=False, **settings)
    assert "\n" not in str(error.value)
