"""The steps of tools/bootstrap.py; the standard library alone, as nothing else is there yet."""
