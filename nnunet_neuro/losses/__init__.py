"""Losses for thin and rare structures, as terms that are added to nnU-Net's own Dice and cross-entropy."""
