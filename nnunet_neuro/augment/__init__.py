"""Transforms of training patches that nnU-Net lacks, for batchgeneratorsv2's pipeline."""
