"""Schedule tokens, not requests: whoever finishes leaves the batch at once, whoever waits steps in."""
