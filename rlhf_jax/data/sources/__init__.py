"""Sources of the study's datasets, and the conversion of their rows to records."""
