"""Networks of older systems, as their weights need them; made by `nnneuro_models import`."""
