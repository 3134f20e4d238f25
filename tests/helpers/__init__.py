"""What several test files use; test modules do not import one another."""

import pytest

# So that a failing assertion in a helper shows its values, as one in a test does.
WITH_ASSERTIONS = ("errors", "layouts", "methods", "mutate", "tiny_run")
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in WITH_ASSERTIONS))
