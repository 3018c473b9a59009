"""Records, prompt formats, tokenisation, batches, the offline corpus and the study's datasets."""
