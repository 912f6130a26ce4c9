"""Recordings: the past of a chaos run or of a simulation as one file, which the dashboard plays.

Owns the format (README.md), the tape that writes it (`tape`) and its reading (`recording`). Does not own who tells a
tape what happens (the judge and the run do), nor what is shown of it. Pure but for `read`, which reads a file.

Whoever opens a recording may have it from anybody: each line is checked, and of no file more is kept than
`tape.BYTES_MAX` of objects, its last line, and what its lines are found by.
"""

from rayplane.control_plane.recordings.recording import BadRecording, Moment, Recording, read
from rayplane.control_plane.recordings.tape import Ending, Head, Tape

__all__ = ["BadRecording", "Ending", "Head", "Moment", "Recording", "Tape", "read"]
