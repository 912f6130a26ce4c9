"""Upkeep of a member, without being asked: its tick, lease expiry, telling where it is, comparing stores.

Owns when these happen. Does not own what they change: that goes through the log as proposals (`replication`).
"""
