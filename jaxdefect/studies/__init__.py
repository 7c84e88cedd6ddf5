"""Many runs of one kind: cross-validation, and studies that compare settings."""
