"""The one exception for a user's mistake."""


class UserError(Exception):
    """A mistake that its maker can mend. The message is one line: what is wrong, why, and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def demand(holds, message):
    """UserError(message) unless it holds."""
    if not holds:
        raise UserError(message)
