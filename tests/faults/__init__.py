"""The language of faults, and that each place carries out what it does not refuse."""
