"""The one error that the tool chain shows to people."""

from config.errors import UserError


class ToolchainError(UserError):
    """Something that set-up needs cannot be had; the message says what is wrong and what to do about it."""


def needs_sudo(error: PermissionError) -> str:
    """What a user reads where a file of root's is in the way of a command."""
    return f"This user has no permission for {error.filename or error}. Run the same command with sudo."
