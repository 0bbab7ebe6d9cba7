"""Phase 9: fused kernels, rewritten graphs, layers left out."""
