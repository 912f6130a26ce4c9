"""Explanations of requests: which steps a request took, how long each was, and what it said.

Owns the spans of the request at hand (`spans`), those of recent requests that are kept (`recent`), and how long a
request was in which layer (`layers`). Does not own the steps: each tells of itself through the functions of `spans` and
`layers`, which do nothing while nobody asks.
Concurrency: the span at hand is the task's, and of those that it begins.
"""
