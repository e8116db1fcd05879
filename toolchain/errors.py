"""The one error that the tool chain shows to people."""

from config.errors import UserError


class ToolchainError(UserError):
    """Something that set-up needs cannot be had; the message says what is wrong and what to do about it."""


def needs_sudo(error: PermissionError) -> str:
    """The error for a command that cannot use a file because it belongs to root."""
    return f"This user has no permission for {error.filename or error}. Run the same command with sudo."
