"""Trainers for nnU-Net: one file per trainer, named as its class."""
