"""The error that commands report in one line."""


class UserError(ValueError):
    """What the user of a command can put right, as the message tells.

    Examples are an unknown name, a value out of range, a data set that is missing, and a full disk.
    Commands print the message alone; any other error is a bug and keeps its traceback.
    """
