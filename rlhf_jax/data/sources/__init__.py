"""Where the study's datasets come from, and how their rows become records."""
