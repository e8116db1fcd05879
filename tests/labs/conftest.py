"""For the tests of all labs: a failed `assert` in the modules that they share shows its values, as one in a test."""

import pytest

# Before the first of them is imported.
pytest.register_assert_rewrite("lab")
