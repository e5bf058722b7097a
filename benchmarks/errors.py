"""What a user can get wrong."""


class InputError(Exception):
    """A wrong request: its message is the one line that the user reads before exit code 2."""
