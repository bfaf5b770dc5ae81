"""The `nnneuro_*` commands: parse, then call one function of the library."""
