"""The rendered data set `scenes`, generated from a seed."""
