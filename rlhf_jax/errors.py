"""The one exception that means: the user can mend this, and the message says how."""


class UserError(Exception):
    """Bad input: one sentence that names the file, line or key, what was found and what was expected.

    `main` prints it without a traceback and exits with status 1.
    """
