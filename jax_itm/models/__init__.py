"""Encoders and the layers that they share."""
