"""Measures of a segmentation against its reference."""
