"""The `thirty` command: one small file per group of verbs; no torch until a project runs."""
