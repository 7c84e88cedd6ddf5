"""Surface-defect inspection in JAX: segmentation-based detectors, from images and a few masks to decisions."""

__version__ = "0.1.0"
