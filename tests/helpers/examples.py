"""Runs the examples of docstrings.

`doctest.testmod` leaves out the functions of a module that is imported with checked shapes: their wrappers
come from elsewhere.
"""

import doctest
from types import ModuleType


def run_examples(module: ModuleType) -> int:
    """Runs the examples of a module's own functions and classes; returns how many there are."""
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    for name, value in vars(module).items():
        if getattr(value, "__module__", "") == module.__name__ and callable(value):
            for example in finder.find(value, name, module=False, globs=dict(vars(module))):
                runner.run(example)
    results = runner.summarize(verbose=False)
    assert not results.failed
    return results.attempted
