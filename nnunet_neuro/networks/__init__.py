"""Network architectures with nnU-Net's constructor signature, importable by dotted path from a plans file."""
