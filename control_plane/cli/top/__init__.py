"""`rayplane top`: the cluster on a terminal, with the keys of k9s.

Owns what stands on the screen: rows of any number, of which those in sight are drawn (`rows`, `order`, `standings`,
`owners`: pure; `table`), what is asked of the cluster (`source`, `forwards`), the way through it (`browsing`, `views`,
`words`, `pages`), and what keys do (`app`, `deeds`, `editing`; `outside` runs programs). Does not own columns and
texts: they are those of `rayplane get`, `describe` and `logs`. Only the command (`command`) is imported before it runs.
"""
