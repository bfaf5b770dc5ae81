"""Experiment planners for nnU-Net (`-pl`): one file per planner, named as its class."""
