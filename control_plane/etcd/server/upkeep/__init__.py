"""Upkeep of a member, without being asked: its tick, lease expiry, telling where it is, comparing stores."""
