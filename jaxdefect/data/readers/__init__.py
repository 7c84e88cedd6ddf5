"""One file per data set or label format; each yields `Sample` records."""
