"""Phase 10: a server, a container and a page, on everything that came before."""
