"""Checking K tokens costs about as much as making one, so guess first and verify, exactly."""
