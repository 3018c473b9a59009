"""Rows of hh-rlhf: two transcripts that begin alike, of which a person preferred one (Bai et al., 2022)."""

import os

from rlhf_jax.data.sources.rows import Row, text
from rlhf_jax.errors import UserError

_TURN = "\n\nAssistant:"


def dialogue(row: Row) -> dict[str, str]:
    """The prompt is what both transcripts begin with, up to the last turn of the assistant that they share.

    Raises:
      UserError: they share none.
    """
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    shared = os.path.commonprefix([chosen, rejected]).rfind(_TURN)
    if shared < 0:
        raise UserError(f"has two transcripts that do not both begin up to {_TURN!r}")
    end = shared + len(_TURN)
    return {"prompt": chosen[:end], "chosen": chosen[end:].strip(), "rejected": rejected[end:].strip()}
