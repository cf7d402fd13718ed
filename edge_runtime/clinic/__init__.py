"""What a person keeps of a film: the written report and its pictures.

Imports nothing here, so that the command line starts without paying for it.
"""
