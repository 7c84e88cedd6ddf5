"""Readers, splits, annotation and the input pipeline: numpy, OpenCV and Grain, no JAX."""
