"""The command line: `rayplane COMMAND`.

Owns the commands, what they print and their exit codes (0 done, 1 failed, 2 wrong usage). Does not own what they do:
clusters are brought up and changed by `control_plane.cluster`, objects are changed through `control_plane.client`.
"""
