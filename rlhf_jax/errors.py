"""The one exception that means: the user can mend this, and the message says how."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Bad input: one sentence that names the file, line or key, what was found and what was expected.

    `main` prints it without a traceback and exits with status 1.
    """


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """Raises UserError where anything inside fails: `what` cannot be read.

    For files that libraries read: what they raise for damaged ones has no common class.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} cannot be read: {type(error).__name__} {reason}".rstrip()) from error
