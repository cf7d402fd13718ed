"""The clinic's store: films, fields, cells, corrections, users, signatures, settings.

Imports nothing here: a run without a clinic needs none of it, nor the extra ``clinic``.
"""
