"""Network policies: which pods may speak with which, kept by packet rules on the nodes of those that are meant.

Owns what policies mean (`model`, pure), which of them concern whom as pods, namespaces and policies come and go
(`policies`, pure), the packet rules that say so (`packet_rules`, pure) and the loop that keeps them (`enforcer`).
Experiments disturb packets by the same rules (`disturbance`, pure) and by a queue (`holding`), whose packets are judged
as by tc-netem(8) (`netem`, pure). Does not own the rules' way into the kernel (`node.nftables`).

A pod that a policy isolates speaks with nobody before its containers start; whom it may speak with follows. A policy is
judged by the addresses and ports of pods, behind any service; packets of another machine bear the address of who sent
them. Answers pass, and what connections were allowed before ends when a policy no longer allows it. A pod always
reaches itself and its own node, and its node always reaches it. What is beyond the limits is not allowed, and told.
"""
