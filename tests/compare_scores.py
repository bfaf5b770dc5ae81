"""scores.json files of several models, as nnneuro_evaluate writes them."""

import json
import re

import numpy as np


def declaration(**changes):
    return {"description": "A share.", "dimension": 0, "best": 1.0, "higher_is_better": True, "both_empty": None, "prediction_empty": 0.0,
            "reference_empty": 0.0, **changes}


MEASURES = {"Dice": declaration(), "HD95": declaration(dimension=1, best=0.0, higher_is_better=False, prediction_empty=None),
            "volume_similarity": declaration(best=0.0, higher_is_better=None)}


class Scores:
    """scores.json files as nnneuro_evaluate writes them."""

    def __init__(self, root):
        self.root = root

    def write(self, name, values, *, rater="one", classes=("axon",), **changes):
        """`values`: measure to one value per case, the same for every class."""
        number = len(next(iter(values.values())))
        document = {
            "made_with": {"nnunet_neuro": "0.1.0"}, "classes": {one: label for label, one in enumerate(classes, 1)}, "tolerance": None,
            "measures": {key: MEASURES[key] for key in values},
            "cases": [{"case": f"case_{index:02d}", "prediction": {"path": "p", "sha256": f"{name}{index}"}, "tolerance": 2.0,
                       "reference": {"path": "r", "sha256": f"{rater}{index}"}, "spacing_zyx": [2.0, 1.0, 1.0],
                       "classes": {one: {"measures": {key: found[index] for key, found in values.items()}, "counts": {}}
                                   for one in classes}} for index in range(number)], **changes}
        folder = self.root / re.sub(r"\W", "_", f"{name}_{rater}")
        folder.mkdir()
        (folder / "scores.json").write_text(json.dumps(document))
        return f"{name}={folder}" if rater == "one" else f"{name}/{rater}={folder}"

    @staticmethod
    def change(word, change):
        path = word.partition("=")[2] + "/scores.json"
        with open(path) as file:
            document = json.load(file)
        change(document)
        with open(path, "w") as file:
            json.dump(document, file)


def drawn(seed, *, mean=0.8, cases=12, sd=0.05):
    return [float(value) for value in np.clip(np.random.default_rng(seed).normal(mean, sd, cases), 0, 1)]


def three(scores, **options):
    base = drawn(0)
    return [scores.write("base", {"Dice": base}, **options),
            scores.write("better", {"Dice": [value + 0.03 + 0.001 * index for index, value in enumerate(base)]}, **options),
            scores.write("same", {"Dice": [value + 0.01 * (-1) ** index for index, value in enumerate(base)]}, **options)]


def raters(scores):
    base = drawn(0)
    return [scores.write(model, {"Dice": [value + shift + less for value in base]}, rater=rater)
            for model, shift in (("unet", 0), ("attention", 0.02)) for rater, less in (("STAPLE", 0), ("manual", -0.1))]
