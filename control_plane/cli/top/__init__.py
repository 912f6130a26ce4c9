"""`rayplane top`: the cluster on a terminal, with the keys of k9s.

Owns what stands on the screen: rows of any number, of which those in sight are drawn (`rows`, `standings`: pure;
`table`), what is asked of the cluster (`source`), the screen and its keys (`app`, `pages`). Does not own columns and
texts: they are those of `rayplane get`, `describe` and `logs`. Only the command (`command`) is imported before it runs.
"""
