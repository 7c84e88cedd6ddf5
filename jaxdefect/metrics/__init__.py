"""Image-level, pixel-level and defect-level figures."""
