collect_ignore = ["toy"]  # two projects that are copied into a root of their own, and tested there
