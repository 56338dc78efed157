"""Every file format's one reader and writer: text, JSON, tables, NIfTI and weights.

Nothing that comes from outside is trusted: sizes are checked before data are read, streams are read to their checksum,
and what is read has the form that `schemas` says. Whatever is wrong raises `scripts.errors.InputError`.
"""
