"""Messages that Google's APIs have in common, under their own names."""
