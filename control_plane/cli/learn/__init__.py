"""`rayplane learn`: a tour through a cluster of its own, step by step.

Owns the steps, which are data (`tour.yaml`), and the command that takes them (`command`). Does not own what they run:
those are commands as people give them.
"""
