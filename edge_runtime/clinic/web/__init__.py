"""The clinic's page: what a person at the microscope sees, corrects and signs.

Imports nothing here: the languages are read by the PDF too, which needs no web framework.
"""
