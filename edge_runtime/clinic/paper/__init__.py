"""What the printed report is made of: its sheet, its words, its map.

Owns layout and wording. Does not own what the report says (see ``clinic.film_pdf``).
"""
