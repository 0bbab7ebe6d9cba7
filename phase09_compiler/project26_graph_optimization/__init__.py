"""A model is a graph, and a graph can be rewritten before it runs."""
