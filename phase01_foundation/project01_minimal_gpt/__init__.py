"""A GPT is attention, a feed-forward layer and a loop: each token looks back and adds what it finds."""
