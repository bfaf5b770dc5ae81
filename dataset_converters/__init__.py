"""Dataset converters: one file per source; the file name is the word after `nnneuro_convert`."""
