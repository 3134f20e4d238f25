"""Data sets, tokenizers and the pipeline; TensorFlow is imported in this room alone."""
