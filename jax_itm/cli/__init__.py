"""The command line: one file per command, with its arguments and its `run`.

A command's module imports what it needs within `run`, so that `--help` and a typo are answered without
waiting for JAX and TensorFlow.
"""
