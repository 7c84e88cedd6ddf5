"""One thin absl entry per verb."""
