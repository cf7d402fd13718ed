"""What the cells of one film say together: differential, morphology, description.

Imports nothing here, so that the command line starts without paying for it.
"""
