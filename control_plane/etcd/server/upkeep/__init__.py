"""What a member does without being asked: its tick, lease expiry, telling where it is, comparing stores."""
