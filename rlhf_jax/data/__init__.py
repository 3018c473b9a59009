"""Records, prompt formats, tokenisation, batches and the offline corpus."""
