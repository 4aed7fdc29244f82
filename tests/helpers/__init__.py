"""Helpers that several test modules share; none of them contains tests."""
