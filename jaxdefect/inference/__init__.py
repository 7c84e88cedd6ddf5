"""From a trained run to scores, maps and decisions."""
