"""Tests of what other people test with."""
