"""The one error that the tool chain shows to people."""


class ToolchainError(Exception):
    """Something that set-up needs cannot be had; the message says what is wrong and what to do about it."""
