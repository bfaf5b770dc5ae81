"""The quickstart's steps: plain commands, continued where they stopped. The whole road is walked by test_main_road.py."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from nnunet_neuro import quickstart
from nnunet_neuro.quickstart import Step, quickstart_steps, run_quickstart


@pytest.fixture
def road(tmp_path, monkeypatch):
    """Three steps that append a letter to files, in place of nnU-Net's; `road.fail` makes the second one stop half-way."""
    script = tmp_path / "step.py"
    script.write_text("import pathlib, sys\n"
                      "letter, target, fail = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])\n"
                      "target.parent.mkdir(parents=True, exist_ok=True)\n"
                      "(target.parent / 'half').touch()\n"
                      "if fail.exists(): sys.exit('broken ' + letter)\n"
                      "old = target.read_text() if target.exists() else ''\n"
                      "target.write_text(old + letter + ('c' if '--c' in sys.argv else ''))\n")

    class Road:
        folder = tmp_path / "work"
        fail = tmp_path / "fail"
        version = "1"

        def __init__(self):
            self.said: list[str] = []

        def steps(self, folder, **options):
            dataset = self.folder / "raw" / quickstart.DATASET / "dataset.json"

            def command(letter, target, fail=tmp_path / "never"):
                return (sys.executable, str(script), letter, str(target), str(fail))

            write = ("-c", f"import pathlib; p = pathlib.Path({str(dataset)!r}); p.parent.mkdir(parents=True, exist_ok=True); "
                           f"p.write_text({self.version!r})")
            return [Step("convert", (sys.executable, *write), (dataset,), always=True),
                    Step("train", command("t", self.folder / "train", self.fail), (self.folder / "train",), (("LENGTH", "5"),),
                         resume=(self.folder / "half",), continues=("--c",)),
                    Step("predict", command("p", self.folder / "predict"), (self.folder / "predict",))]

        def run(self):
            run_quickstart(self.folder, device="cpu", epochs=1, iterations=1, say=self.said.append)
            return (self.folder / "train").read_text(), (self.folder / "predict").read_text()

    made = Road()
    monkeypatch.setattr(quickstart, "quickstart_steps", made.steps)
    return made


def test_second_run_does_nothing_that_is_done(road):
    assert road.run() == ("t", "p")
    assert road.run() == ("t", "p")
    assert sum("done already" in line for line in road.said) == 2


def test_failed_step_is_named_and_continued(road):
    road.fail.touch()
    with pytest.raises(ValueError, match="exit code 1(.|\n)*broken t"):
        road.run()
    road.fail.unlink()
    assert road.run() == ("tc", "p")  # went on with --c


def test_changed_dataset_repeats_everything_after_it(road):
    road.run()
    road.version = "2"
    assert road.run() == ("tt", "pp")  # from scratch, not continued


def test_missing_output_repeats_the_step_and_what_follows(road):
    road.run()
    (road.folder / "train").unlink()
    assert road.run()[1] == "pp"


def test_results_of_an_older_run_never_count_as_done(road):
    """A step made anew spoils what follows, also when the run breaks off in between."""
    road.run()
    (road.folder / "train").unlink()
    road.fail.touch()
    with pytest.raises(ValueError):
        road.run()
    road.fail.unlink()
    assert road.run()[1] == "pp"


def test_every_step_prints_a_command_that_can_be_copied(road):
    road.run()
    printed = [line for line in road.said if line.startswith("  $ ")]
    assert len(printed) == 3 and printed[1].startswith("  $ LENGTH=5 ")
    assert any(line.startswith("export nnUNet_raw=") for line in road.said)


@pytest.mark.parametrize("from_scratch, trainings", [(False, ["nnneuro_models"] * 2),
                                                     (True, ["nnUNetv2_plan_and_preprocess", "nnUNetv2_train", "nnUNetv2_train"])])
def test_steps_are_plain_commands(tmp_path, from_scratch, trainings):
    steps = quickstart_steps(tmp_path, device="cuda", epochs=3, iterations=4, from_scratch=from_scratch)
    programs = [step.command[0] for step in steps]
    assert programs == ["nnneuro_convert", *trainings, "nnUNetv2_find_best_configuration", "nnUNetv2_predict", "nnneuro_evaluate"]
    assert all("cuda" in step.command for step in steps if step.command[0] in ("nnUNetv2_train", "nnneuro_models", "nnUNetv2_predict"))
    for step in steps:
        assert shlex.split(shlex.join(step.command)) == list(step.command)
        assert all(isinstance(path, Path) and path.is_relative_to(tmp_path) for path in step.makes)
