"""Three small cases with predictions and probabilities, for tests of nnneuro_evaluate."""

import json

import numpy as np
import tifffile

from nnunet_neuro.commands.evaluate import main
from nnunet_neuro.evaluate.run import evaluate_folders

SHAPE = (6, 20, 24)
LABELS = {"background": 0, "axon": 1, "soma": 2}


def labels(seed):
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    return np.digitize(smooth, np.quantile(smooth, [0.8, 0.93])).astype(np.uint8)


class Cases:
    """Three cases in micrometres and their predictions with probabilities."""

    def __init__(self, root):
        self.root, self.predictions, self.references = root, root / "predictions", root / "labelsTs"
        self.predictions.mkdir(), self.references.mkdir()
        self.describe({"labels": LABELS})
        for number in range(3):
            self.write(f"brain_{number}", labels(number), np.roll(labels(number), 1, axis=1))

    def describe(self, dataset):
        (self.root / "dataset.json").write_text(json.dumps({"file_ending": ".tif", **dataset}))

    def write(self, case, reference, prediction, *, spacing=(2.0, 0.5, 0.5)):
        for folder, voxels in ((self.references, reference), (self.predictions, prediction)):
            tifffile.imwrite(folder / f"{case}.tif", voxels)
            (folder / f"{case}.json").write_text(json.dumps({"spacing": spacing}))
        probabilities = np.full((3, *voxels.shape), 0.15, np.float32)
        np.put_along_axis(probabilities, prediction[None].astype(int), np.float32(0.7), axis=0)
        self.save(case, probabilities)

    def save(self, case, probabilities):
        np.savez_compressed(self.predictions / f"{case}.npz", probabilities=probabilities)

    def evaluate(self, **options):
        return evaluate_folders(self.predictions, self.references, progress=False, **options)

    def run(self, *options):
        return main([str(self.predictions), str(self.references), "--format", "json,csv", *map(str, options)])

    @property
    def scores(self):
        return json.loads((self.predictions / "evaluation" / "scores.json").read_text())


def refused(capsys, arguments):
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("error: ") == 1
    return printed.err.strip().splitlines()[-1]
