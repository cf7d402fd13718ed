"""Measurements that a reader can repeat: speed, memory and accuracy, ours and the peers'.

Owns the measuring and the committed results. Does not own what is measured; nothing else in
the repository imports it.
"""
