"""The checks of lint.py, one file for each kind of thing that loads and is probably not meant."""
