"""Simulated pods and nodes as data: stages in KWOK's manner (kwok.x-k8s.io), and how simulated containers answer.

Owns what a stage is and what is wrong with one (`stage`), which comes next for an object (`choice`) and what it does
(`effects`); templates (`templates`, a subset of Go's) and paths (`paths`, a subset of jq's), both within bounds; what
is said of logs, commands and usage (`answers`); the definitions of these kinds. Does not own who plays a stage and in
whose name (`node.kubelet`), or whether an object may be stored (the API servers ask `definitions.errors_in`).

Pure: the moment, random numbers and what a node knows are passed in.
"""
