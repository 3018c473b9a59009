"""The other side of `encoders.py`: what sentence-transformers makes of the same texts.

    python tests/oracle/encoders_reference.py TEXTS OUT FOLDER...

`TEXTS` is a JSON list. `OUT` will hold the unit vectors `[n, D]` of each folder, under its number, from 0.
"""

import json
import sys
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

texts = json.loads(Path(sys.argv[1]).read_text())
encoders = [SentenceTransformer(folder, device="cpu") for folder in sys.argv[3:]]
vectors = [encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False) for encoder in encoders]
np.savez(sys.argv[2], **{str(number): found for number, found in enumerate(vectors)})
