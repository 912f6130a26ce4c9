"""Packet rules of a network namespace (Linux' nf_tables), kept by a node host without any program of the machine.

Owns rules as data (`expressions`, `ruleset`: pure), the netlink messages that they are (`messages`: pure), those of
packets that a program judges (`queue`: pure) and the socket that the kernel takes rules by (`kernel`). Does not own
what the rules are about: services (`node.proxy`).

Each host has one table, named after its process, and writes it alone. A change is one transaction: packets meet the
rules of before or those of after. What does not fit into one datagram goes in several, in an order in which none leads
to what is not there yet. Where the kernel does not agree, the table is made anew beside the old and takes its place.
Source: linux/netfilter/nf_tables.h; its numbers stand here under the names that they have there.
"""
