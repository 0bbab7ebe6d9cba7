"""Phase 1: a GPT, a tokenizer and a base model, each built from nothing."""
