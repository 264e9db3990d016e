"""Errors a user can act on: one line that names the value, what is allowed and what to do."""


class UserError(ValueError):
    """Wrong input or setting; commands print it as one line and exit with code 2."""
