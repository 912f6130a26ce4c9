"""What a member does without being asked: lease expiry, comparing stores, telling where it is."""
