"""Trained networks of the older systems as nnU-Net v2 models: D-LMBmap, MTNeuro, the Kasthuri challenge, the thalamus benchmark."""
