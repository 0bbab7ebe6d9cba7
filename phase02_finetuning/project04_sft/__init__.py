"""The same loss on answers alone turns a model that continues into one that replies."""
