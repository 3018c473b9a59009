"""Sentence embeddings from any endpoint that speaks OpenAI's embeddings API."""

import itertools
import os
from collections.abc import Sequence

import numpy as np

from rlhf_jax.errors import UserError

TEXTS_PER_REQUEST = 256
ATTEMPTS = 8
KEY_VARIABLE = "OPENAI_API_KEY"


class EmbeddingEndpoint:
    """Encodes texts as unit vectors. The address and the key are OPENAI_BASE_URL and OPENAI_API_KEY.

    The openai client repeats requests after connection errors, time-outs, 408, 409, 429 and 5xx.

    Args:
      model: its name there.

    Raises:
      UserError: the environment has no key.
    """

    def __init__(self, model: str) -> None:
        import openai

        if not os.environ.get(KEY_VARIABLE):
            raise UserError(f"The environment has no {KEY_VARIABLE}, expected the key of the endpoint of {model!r}.")
        self._model = model
        self._client = openai.OpenAI(max_retries=ATTEMPTS - 1)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns `[n, D]` float32 unit vectors, in the order of the texts. An empty text is sent as a space.

        Raises:
          UserError: the endpoint refuses the request, does not answer, or answers with something else.
        """
        import openai

        found: list[list[float]] = []
        for batch in itertools.batched(texts, TEXTS_PER_REQUEST):
            try:
                response = self._client.embeddings.create(
                    model=self._model, input=[text or " " for text in batch], encoding_format="float"
                )
            except openai.OpenAIError as error:
                raise UserError(f"{self._client.base_url} gives no embeddings by {self._model!r}: {error}") from error
            answered = sorted(response.data or [], key=lambda entry: entry.index)
            if [entry.index for entry in answered] != list(range(len(batch))):
                raise UserError(
                    f"{self._client.base_url} answered {len(answered)} embeddings, expected {len(batch)}, one per text."
                )
            found += [entry.embedding for entry in answered]
        vectors = np.array(found, np.float32).reshape(len(texts), -1)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            raise UserError(f"{self._client.base_url} answered an embedding without a length, expected finite vectors.")
        return vectors / norms
