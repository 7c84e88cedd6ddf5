"""How fast a config runs, against what the device could do, and where the time goes."""
