"""Every real data set goes through a converter, is planned by nnU-Net without a complaint, and one of each kind is trained for a moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_neuro.commands.convert import main

pytestmark = pytest.mark.slow

_PAIR = ("--image", "{data}/{folder}/images/{{case}}{suffix}", "--label", "{data}/{folder}/labels/{{case}}{suffix}")
# name -> folder, converter, options; {data} and {folder} are filled in
SOURCES = {
    "X-ray planes": ("xray_mtneuro/sparse_3d", "volumes", (*_PAIR, "--labels", "1=vessel,2=cell,3=axon,4=ignore"), ".tif"),
    "X-ray regions": ("xray_mtneuro/region_2d", "volumes",
                      (*_PAIR, "--labels", "1=cortex,2=striatum,3=TRN,4=VP,5=ZI,6=IC,8=CC,9=ignore"), ".tif"),
    "X-ray flat": ("xray_mtneuro/micro_2d", "volumes", (*_PAIR, "--labels", "1=vessel,2=cell,3=axon"), ".png"),
    "serial sections": ("em_vnc_sstem", "volumes", (*_PAIR, "--labels", "1=membrane,2=mitochondrion,3=synapse",
                                                    "--spacing", "0.05,0.0046,0.0046"), ".tif"),
    "ISBI membranes": ("em_isbi2012", "volumes", (*_PAIR, "--labels", "1=membrane", "--spacing", "0.05,0.004,0.004", "--groups-per-volume",
                                                  "2", "--gap", "32"), ".tif"),
    "medulla bodies": ("em_fib25_medulla", "mitoem", ("--image", "medulla={data}/{folder}/images/fib25_z000-149.tif", "--instances",
                       "{data}/{folder}/labels_bodies/fib25_z000-149.tif", "--spacing", "0.01,0.01,0.01", "--boundary-width", "1"), ".tif"),
    "SEM axons": ("em_axondeepseg_sem", "volumes", (*_PAIR, "--labels", "1=myelin,2=axon"), ".png"),
    "TRAILMAP axons": ("ls_trailmap_axons", "volumes", (*_PAIR, "--labels", "1=axon,2=edge,3=ignore", "--spacing", "3,3.25,3.25"), ".tif"),
    "D-LMBmap axons": ("ls_dlmbmap_axons", "volumes", (*_PAIR, "--labels", "1=axon", "--spacing", "3,1.6,1.6"), ".tif"),
    "hemispheres": ("ls_brainreg_hemispheres", "volumes", (*_PAIR, "--labels", "1=left,2=right"), ".tif"),
    "two channels": ("ls_cellfinder_cells", "volumes", (
        "--image", "signal={data}/{folder}/unlabelled/sample_ch0_signal.tif", "--image",
        "background={data}/{folder}/unlabelled/sample_ch1_background.tif", "--label",
        "{data}/{folder}/unlabelled/sample_ch0_signal.tif", "--variant", "foreground", "--threshold", "3000", "--spacing", "5,2,2"),
        ".tif"),
    "FreeSurfer thalamus": ("mri_t1_freesurfer_aseg", "thalamus", (
        "{data}/{folder}", "--layout", "T1=images/{{subject}}_T1.nii.gz", "--mask", "labels_full/{{subject}}.nii.gz",
        "--labels", "10=thalamus_left,49=thalamus_right", "--other", "background"), ".nii.gz"),
    "Colin thalamus": ("mri_colin27_aal", "thalamus", (
        "{data}", "--layout", "T1={{subject}}_aal/image_T1.nii.gz", "--mask", "{{subject}}_aal/labels_subcortical.nii.gz",
        "--labels", "1=thalamus_left,2=thalamus_right", "--other", "background"), ".nii.gz"),
    "mouse diffusion": ("mri_mouse_dti_thalamus", "thalamus", (
        "{data}/{folder}", "--layout", *(f"{name}=images/{{{{subject}}}}_{name}.nii.gz" for name in ("FA", "MD", "AD", "RD")), "--mask",
        "labels/{{subject}}_subcortical.nii.gz", "--labels", "1=left,2=right", "--other", "background"), ".nii.gz"),
    "spinal cord": ("mri_spinalcord_sct", "thalamus", (
        "{data}/{folder}", "--layout", *(f"{name}={{{{subject}}}}/image_{name}.nii.gz" for name in ("mt0", "mt1", "t1w")), "--mask",
        "{{subject}}/label_mt1_seg.nii.gz", "--labels", "1=cord", "--skip-incomplete"), ".nii.gz"),
    "hippocampus": ("mri_msd_hippocampus", "thalamus", (
        "{data}/{folder}", "--layout", "T1=imagesTr/{{subject}}.nii.gz", "--mask", "labelsTr/{{subject}}.nii.gz",
        "--labels", "1=anterior,2=posterior"), ".nii.gz"),
}
# flat, isotropic, anisotropic; few and small cases, because nnU-Net validates whole ones
TRAINED = {"SEM axons": ("2d", ("--limit", "4")), "hippocampus": ("3d_fullres", ("--limit", "6")),
           "ISBI membranes": ("3d_fullres", ("--groups-per-volume", "3", "--gap", "160"))}


def convert(name: str, data: Path, *further: str) -> int:
    folder, converter, options, suffix = SOURCES[name]
    filled = [option.format(data=data, folder=folder, suffix=suffix) for option in options]
    return main([converter, "-d", "801", "--name", "Real", *filled, *further])


@pytest.mark.parametrize("name", SOURCES)
def test_is_planned_without_a_complaint(name, shared_data, nnunet_folders, monkeypatch, capsys):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments

    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    assert convert(name, shared_data) == 0
    extract_fingerprints([801], num_processes=2, check_dataset_integrity=True)
    plans_name = plan_experiments([801], "nnUNetPlannerSmall")
    said = capsys.readouterr()
    assert "Error" not in said.out and "WARNING" not in said.out.upper().replace("#", ""), said.out[-2000:]
    dataset = json.loads((nnunet_folders.raw / "Dataset801_Real/dataset.json").read_text())
    plans = json.loads((nnunet_folders.preprocessed / f"Dataset801_Real/{plans_name}.json").read_text())
    spacings = [case["spacing"] for case in dataset["provenance"]["cases"].values()]
    if dataset["file_ending"] == ".png":
        assert set(plans["configurations"]) == {"2d"}
    else:
        assert sorted(plans["original_median_spacing_after_transp"]) == pytest.approx(sorted(spacings[0]), rel=1e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_is_trained(name, shared_data, nnunet_folders):
    configuration, options = TRAINED[name]
    assert convert(name, shared_data, *options) == 0
    environment = {**os.environ, "NNNEURO_EPOCHS": "1", "NNNEURO_ITERATIONS": "3", "NNNEURO_VAL_ITERATIONS": "1", "NNNEURO_AUTOLOAD": "1"}
    for command in (["nnUNetv2_plan_and_preprocess", "-d", "801", "-c", configuration, "-pl", "nnUNetPlannerSmall", "-np", "2",
                     "-npfp", "2", "--verify_dataset_integrity"],
                    ["nnUNetv2_train", "801", configuration, "0", "-p", "nnUNetPlansSmall", "-tr", "nnUNetTrainerAxialAttention", "-device",
                     "cpu"]):
        done = subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], capture_output=True, text=True, timeout=900,
                              env={**environment, **({"nnUNet_n_proc_DA": "0"} if "train" in command[0] else {})})
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = nnunet_folders.results / f"Dataset801_Real/nnUNetTrainerAxialAttention__nnUNetPlansSmall__{configuration}/fold_0"
    assert (folder / "checkpoint_final.pth").is_file()
    summary = json.loads((folder / "validation/summary.json").read_text())
    split = json.loads((nnunet_folders.raw / "Dataset801_Real/splits_final.json").read_text())[0]
    assert len(summary["metric_per_case"]) == len(split["val"])
