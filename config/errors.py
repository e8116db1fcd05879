"""The root of all errors that a user reads. Without imports: the command line loads it before anything else."""


class UserError(Exception):
    """What the user reads as it is, without a traceback: what is wrong, and what to do about it."""
