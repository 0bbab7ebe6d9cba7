"""Scale is the same loop, fed by a loader and an optimiser that never lose their place."""
