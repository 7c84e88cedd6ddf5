"""HTML reports, plots and tables."""
