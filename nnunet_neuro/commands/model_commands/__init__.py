"""The words after `nnneuro_models`: one module each, with `add_arguments(parser)` and `run(options) -> int`."""
