"""What tests of scripts start from: for some, the program as the unit tests run it."""

from unit.conftest import dev, ha, hard_way, no_output_in_a_string, nobody_is_trusted, nothing_was_interrupted

__all__ = ["dev", "ha", "hard_way", "no_output_in_a_string", "nobody_is_trusted", "nothing_was_interrupted"]
